"""Jobs that wait for jobs, over a real API and real workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from shared.jobs.entities import Job
from shared.states import Status
from tests.servers import Qanvas, free_port, wait_until
from tests.worker.conftest import Shop

pytestmark = pytest.mark.slow


@pytest.fixture
def http(shop: Shop, qanvas: Callable[..., Qanvas]) -> Iterator[httpx.Client]:
    """A client of an API process that shares the shop's settings."""
    settings = shop.settings.with_(port=free_port())
    process = qanvas("api", settings=settings)
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=30) as client:

        def answers() -> bool:
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                assert process.process.poll() is None, process.said()
                return False

        wait_until(answers, 60, what="the API")
        yield client


def submit(http: httpx.Client, *, given: dict[str, Any] | None = None, **body: Any) -> str:
    whole = {"model": "fake", "input": {"prompt": "x", "width": 16, "height": 16, **(given or {})}, **body}
    answer = http.post("/v1/jobs", json=whole)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def began(shop: Shop, job: Job) -> float:
    assert job.status is Status.SUCCEEDED and job.started_at is not None, job.error
    return job.started_at


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_chain_and_a_fan_run_in_turn_and_pass_their_pictures_on(shop: Shop, http: httpx.Client) -> None:
    first = submit(http, given={"steps": 5, "step_seconds": 0.1, "seed": 1, "fail_attempts": 1})
    fan = [submit(http, given={"steps": 1}, depends_on=[first]) for _ in range(4)]
    drawn = {"steps": 0, "image": {"job": first, "output": 0}}
    last = submit(http, given=drawn, depends_on=fan)
    assert http.get(f"/v1/jobs/{last}").json()["waiting"]["reason"] == "depends-on"
    for _ in range(2):
        shop.worker()
    shown = http.get(f"/v1/jobs/{last}?wait=60").json()
    assert shown["status"] == "succeeded" and shown["depends_on"] == [*fan, first]
    ended = shop.wait(first)
    assert ended.attempts == 2 and ended.finished_at is not None
    for job_id in fan:
        job = shop.wait(job_id)
        assert began(shop, job) >= ended.finished_at and job.finished_at is not None
        assert began(shop, shop.jobs.get(last)) >= job.finished_at
    assert np.array_equal(shop.pixels(shop.jobs.get(last)), shop.pixels(ended))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_waits_for_a_job_that_fails_never_runs_and_says_why(shop: Shop, http: httpx.Client) -> None:
    first = submit(http, given={"fail_at_step": 1})
    second = submit(http, depends_on=[first])
    third = submit(http, given={"image": {"job": second, "output": 0}})
    other = submit(http)
    shop.worker()
    for job_id in (second, third):
        shown = http.get(f"/v1/jobs/{job_id}?wait=60").json()
        assert (shown["status"], shown["attempts"]) == ("failed", 0)
        assert shown["error"]["type"] == "dependency-failed" and first in shown["error"]["message"]
        assert shop.attempts_run(job_id) == []
        with http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
            assert "event: done" in list(answer.iter_lines())
    assert shop.wait(other).status is Status.SUCCEEDED
