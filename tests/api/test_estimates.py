"""Why a job waits and for how long, as its client is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from api.usecases.estimates import seconds_until_start
from api.usecases.services import Services
from shared.jobs.workers import Worker
from tests.api.helpers import Api, Hand
from tests.servers import wait_until
from worker.attempts.slot_time import Pace

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def worker(**changes: Any) -> Worker:
    known = Worker(
        id="wrk_1", host="h", pid=1, device="cpu", slots=2, queues=("default",), pace={"default": 3.0}
    )
    return replace(known, **changes)


def estimate(position: int | None, *workers: Worker, queue: str = "default") -> float | None:
    return seconds_until_start(queue, position, workers)


def test_a_job_for_which_a_slot_is_free_starts_at_once() -> None:
    assert estimate(1, worker()) == 0.0
    assert estimate(1, worker(busy={"default": 1})) == pytest.approx(1.5)


def test_an_estimate_counts_the_jobs_before_it_and_the_slots_of_all_workers() -> None:
    full = worker(busy={"default": 2})
    assert estimate(3, full) == pytest.approx(4 * 3.0 / 2)
    assert estimate(3, full, replace(full, id="wrk_2")) == pytest.approx(4 * 3.0 / 4)
    slower = replace(full, id="wrk_2", slots=6, busy={"default": 6}, pace={"default": 7.0})
    assert estimate(0, full, slower) == pytest.approx((2 * 3.0 + 6 * 7.0) / 8 / 8)


def test_training_has_one_slot_of_its_own() -> None:
    trainer = worker(queues=("default", "training"), busy={"default": 2}, pace={"training": 60.0})
    assert estimate(0, trainer, queue="training") == 0.0
    assert estimate(1, trainer, queue="training") == pytest.approx(60.0)


def test_what_cannot_be_known_is_null() -> None:
    full = worker(busy={"default": 2}, pace={})
    assert estimate(0, full) is None
    assert estimate(None, worker()) is None
    assert estimate(0, worker(), queue="other") is None
    assert estimate(0) is None


def test_the_pace_follows_what_jobs_take_lately(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("worker.attempts.slot_time.time.monotonic", lambda: now)
    pace = Pace()
    for seconds in (10.0, *[2.0] * 40):
        with pace.measured("default"):
            now += seconds
    assert pace.means == {"default": pytest.approx(2.0, abs=0.01)}


@one_database
def test_a_waiting_job_is_told_its_place_among_tenants_and_when_it_starts(
    api: Api, hand: Hand, services: Services
) -> None:
    busy = replace(hand.worker, pace={"default": 2.5})
    api.submit()
    hand.claim()
    services.registry.heartbeat(busy)
    first, second = api.submit(), api.submit()
    assert [job["waiting"]["position"] for job in (first, second)] == [0, 1]

    def told() -> list[Any]:
        return [api.get(job["urls"]["self"]).json["waiting"] for job in (first, second)]  # type: ignore[index]

    expected = {"reason": "behind-others", "position": 1, "estimate": 5.0}
    both = [{**expected, "position": 0, "estimate": 2.5}, expected]
    wait_until(lambda: told() == both, 10, what="both")  # the list of workers is believed for a second


@one_database
def test_a_claimed_job_says_that_its_model_is_being_loaded(api: Api, hand: Hand, services: Services) -> None:
    job = api.submit()
    hand.claim()

    def told() -> Any:
        answered = api.get(job["urls"]["self"]).json
        assert answered is not None and answered["status"] == "running"
        return answered["waiting"]

    loading = {"reason": "loading-model", "position": None, "estimate": None}
    services.events.publish(job["id"], "progress", {"stage": "load", "step": 0, "total": None})
    wait_until(lambda: told() == loading, 10, what="the load to be told")
    services.events.publish(job["id"], "progress", {"stage": "denoise", "step": 1, "total": 2})
    wait_until(lambda: told() is None, 10, what="the step to be told")
