"""Celery's own tools against a running system: what operators know works here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from cli.embedded import children
from shared.settings import Settings
from tests.e2e.conftest import Server
from tests.servers import Qanvas, free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def environment(settings: Settings) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("QANVAS_")}
    return {**inherited, "QANVAS_DATA": str(settings.data)}


def celery(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    """The real command, with the data folder as all that it is told."""
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.celery.app", *words],
        env=environment(settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def inspected(settings: Settings, what: str) -> dict[str, Any]:
    """The answer of each worker."""
    done = celery(settings, "inspect", what, "--json", "--timeout", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_status_ping_and_active_show_workers_and_the_jobs_that_they_run(
    up: Callable[..., Server], up_settings: Settings
) -> None:
    server = up("--workers", "2")
    running = server.submit(prompt="x", steps=600, step_seconds=0.1)
    wait_until(lambda: server.job(running["id"])["status"] == "running", 60, what="the job to run")
    status = celery(up_settings, "status", "--timeout", "5")
    assert status.returncode == 0 and status.stdout.count(": OK") == 2, status.stdout + status.stderr
    assert all(f"{one['id']}@" in status.stdout for one in server.workers())
    assert "2 nodes online" in status.stdout
    assert [answer["ok"] for answer in inspected(up_settings, "ping").values()] == ["pong", "pong"]
    active = inspected(up_settings, "active")
    [ticket] = [one for tickets in active.values() for one in tickets if one["job"] is not None]
    assert (ticket["job"], ticket["kwargs"]) == (running["id"], {"queue": "default"})
    assert ticket["delivery_info"]["routing_key"] == "qanvas.default"
    stats = next(iter(inspected(up_settings, "stats").values()))
    assert stats["pool"]["max-concurrency"] >= up_settings.slots
    queues = {one["name"] for one in next(iter(inspected(up_settings, "active_queues").values()))}
    assert queues == {"qanvas.default", "qanvas.training"}
    server.http.post(f"/v1/jobs/{running['id']}/cancel")
    server.ended(running["id"])
    assert not [one for tickets in inspected(up_settings, "active").values() for one in tickets if one["job"]]


def test_a_worker_of_celerys_own_is_refused(up: Callable[..., Server], up_settings: Settings) -> None:
    up()
    refused = celery(up_settings, "worker", "--pool=threads")
    assert refused.returncode != 0 and "start workers with: qanvas worker" in refused.stderr


@pytest.fixture
def flower(up_settings: Settings) -> Iterator[str]:
    """Where a Flower on the data folder's system listens; started by the test's first request."""
    pytest.importorskip("flower", reason="Flower is not installed; pip install flower")
    port = free_port()
    log = up_settings.data.parent / "flower.txt"
    command = [sys.executable, "-m", "celery", "-A", "worker.celery.app", "flower", f"--port={port}"]
    told = {**environment(up_settings), "FLOWER_UNAUTHENTICATED_API": "1"}
    process = children.start(command, log=log, env=told)
    yield f"http://127.0.0.1:{port}"
    children.stop([process], grace=10)


def test_flower_shows_the_worker(
    up: Callable[..., Server], up_settings: Settings, request: pytest.FixtureRequest
) -> None:
    server = up()
    [worker] = server.workers()
    url = request.getfixturevalue("flower")
    with httpx.Client(trust_env=False, timeout=30) as client:

        def workers() -> dict[str, Any]:
            try:
                answer = client.get(f"{url}/api/workers", params={"refresh": "1"})
            except httpx.TransportError:
                return {}
            return dict(answer.json()) if answer.is_success else {}

        def is_there() -> bool:
            return any(name.startswith(worker["id"]) for name in workers())

        wait_until(is_there, 60, what="the worker in Flower")
        [(name, found)] = workers().items()
        assert {one["name"] for one in found["active_queues"]} == {"qanvas.default", "qanvas.training"}
        assert name in client.get(f"{url}/worker/{name}").text


def test_they_work_beside_a_redis_of_ones_own(
    qanvas: Callable[..., Qanvas], up_settings: Settings, redis_url: str
) -> None:
    settings = up_settings.with_(redis_url=redis_url)
    assert qanvas("migrate", settings=settings).wait() == 0
    qanvas("worker", settings=settings).wait_for_line("ready", 120)
    env = environment(settings) | {"QANVAS_REDIS_URL": redis_url}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.celery.app", "inspect", "ping", "--json"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0 and [one["ok"] for one in json.loads(done.stdout).values()] == ["pong"]
