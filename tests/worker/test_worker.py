"""A real worker process: from a ticket to a stored picture, and every way a job can end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from shared.states import Status
from tests.servers import wait_until
from tests.worker.conftest import Shop

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_a_prompt_becomes_a_stored_picture_that_says_how_it_was_made(open_all_day: Shop) -> None:
    shop = open_all_day
    job = shop.wait(shop.draw(prompt="ein grüner Apfel", seed=7, width=48, height=32, steps=3))
    assert job.status is Status.SUCCEEDED and job.error is None and job.load_seconds is not None
    [output] = job.outputs
    assert (output.media_type, output.facts) == ("image/png", {"width": 48, "height": 32})
    assert output.key == f"outputs/{job.id}/1/0.png"
    assert shop.storage.size(output.key) == output.bytes
    picture = shop.picture(job)
    assert picture.size == (48, 32)
    assert picture.info == {
        "prompt": "ein grüner Apfel",
        "steps": "3",
        "width": "48",
        "height": "32",
        "seed": "7",
        "model": "fake",
        "task": "text-to-image",
        "job": job.id,
        "software": "Qanvas",
    }


def test_watchers_hear_of_every_step_and_of_the_end(open_all_day: Shop) -> None:
    shop = open_all_day
    job = shop.wait(shop.draw(steps=3, step_seconds=0.1))
    wait_until(lambda: shop.events.read(job.id)[-1].type == "done", what="the last event")
    events = shop.events.read(job.id)
    assert [event.type for event in events if event.type != "progress"] == [
        "status",
        "output",
        "status",
        "done",
    ]
    drawn = [event.data["step"] for event in events if event.data.get("stage") == "draw"]
    assert drawn == [0, 1, 2, 3]
    assert events[-3].data["url"] == f"/v1/outputs/{job.outputs[0].id}"


def test_a_preview_can_be_seen_before_the_end(open_all_day: Shop) -> None:
    shop = open_all_day
    job_id = shop.draw(steps=1000, step_seconds=0.05, preview_every=2)
    wait_until(lambda: shop.events.preview(job_id) is not None, what="a preview")
    assert any(event.type == "preview" for event in shop.events.read(job_id))
    shop.jobs.cancel(job_id)
    shop.wait(job_id)


def test_a_running_job_is_canceled_long_before_its_end(open_all_day: Shop) -> None:
    shop = open_all_day
    job_id = shop.draw(steps=1000, step_seconds=0.05)
    shop.wait_for_step(job_id, 2)
    asked = time.monotonic()
    shop.jobs.cancel(job_id)
    job = shop.wait(job_id)
    assert job.status is Status.CANCELED
    assert time.monotonic() - asked < 20  # of 50 that it would go on
    assert list(shop.storage.list(f"outputs/{job_id}")) == []


def test_a_job_that_fails_says_why_and_the_traceback_stays_with_the_operator(open_all_day: Shop) -> None:
    shop = open_all_day
    job = shop.wait(shop.draw(steps=5, fail_at_step=3))
    assert job.status is Status.FAILED and job.attempts == 1
    assert job.error == {
        "type": "internal",
        "message": "failed at step 3, as ordered by fail_at_step",
        "retryable": False,
    }


def test_a_job_that_runs_out_of_memory_gets_all_its_attempts(open_all_day: Shop) -> None:
    shop = open_all_day
    job = shop.wait(shop.draw(oom_above=0, max_attempts=3))
    assert job.status is Status.FAILED and job.attempts == 3
    assert job.error is not None and job.error["type"] == "out-of-memory"


def test_a_job_without_a_ticket_is_found(open_all_day: Shop) -> None:
    shop = open_all_day
    ids = shop.submit([shop.new() for _ in range(5)], tickets=False)
    assert {job.status for job in shop.wait_all(ids)} == {Status.SUCCEEDED}


@pytest.mark.slow
@one_database
def test_a_job_past_its_timeout_fails_and_the_next_one_runs(shop: Shop) -> None:
    shop.worker(slots=1)
    late = shop.draw(steps=1000, step_seconds=0.05, timeout=0.5)
    after = shop.draw()
    job = shop.wait(late)
    assert job.status is Status.FAILED
    assert job.error == {
        "type": "deadline",
        "message": "the job ran longer than its timeout of 0.5 s",
        "retryable": False,
    }
    assert shop.wait(after).status is Status.SUCCEEDED


@pytest.mark.slow
@one_database
def test_a_model_that_is_gone_is_said_to_be_unavailable(shop: Shop) -> None:
    job_id = shop.draw()
    shop.worker(fake_models=False)
    job = shop.wait(job_id)
    assert job.status is Status.FAILED
    assert job.error is not None and job.error["type"] == "model-unavailable"


@pytest.mark.slow
@one_database
def test_the_worker_is_listed_with_what_it_runs_and_gone_when_it_leaves(shop: Shop) -> None:
    process = shop.worker(slots=3)
    job_id = shop.draw(steps=1000, step_seconds=0.05)
    shop.wait_for_step(job_id, 1)
    wait_until(lambda: shop.registry.alive(within=5)[0].models, what="a heartbeat")
    [worker] = shop.registry.alive(within=5)
    assert (worker.pid, worker.device, worker.slots) == (process.pid, "cpu", 3)
    assert worker.queues == ("default", "training")
    assert worker.running == (job_id,)
    assert worker.models == ("fake",)
    assert worker.memory["budget"] > 0
    assert _steps_of_niceness(process.pid) == {0, 5}  # the kiln's threads, and those that step behind
    shop.jobs.cancel(job_id)
    assert process.stop() == 0
    assert shop.registry.alive(within=60) == []


def _steps_of_niceness(pid: int) -> set[int]:
    """Those of the process's threads beyond this one's."""
    threads = [int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()]
    own = os.getpriority(os.PRIO_PROCESS, 0)
    return {os.getpriority(os.PRIO_PROCESS, thread) - own for thread in threads}


@pytest.mark.slow
@one_database
def test_a_worker_told_to_stop_lets_short_jobs_end(shop: Shop) -> None:
    process = shop.worker(drain_seconds=10.0)
    job_id = shop.draw(steps=60, step_seconds=0.05)
    shop.wait_for_step(job_id, 1)
    process.process.send_signal(signal.SIGTERM)

    def shown() -> tuple[tuple[str, ...], tuple[str, ...]]:
        [worker] = shop.registry.alive(within=60)
        return worker.queues, worker.running

    wait_until(lambda: shown() == ((), (job_id,)), what="the others to hear that it takes no more jobs")
    assert process.wait() == 0
    job = shop.jobs.get(job_id)
    assert job.status is Status.SUCCEEDED and job.attempt == 1


@pytest.mark.slow
def test_a_job_that_is_handed_back_goes_on_elsewhere_with_the_same_picture(shop: Shop) -> None:
    first = shop.worker(drain_seconds=0.5)
    job_id = shop.draw(steps=60, step_seconds=0.1, seed=5)
    shop.wait_for_step(job_id, 5)
    assert first.stop() == 0
    waiting = shop.jobs.get(job_id)
    assert waiting.status is Status.QUEUED and waiting.attempts == 0
    shop.worker()
    job = shop.wait(job_id)
    assert (job.attempt, job.attempts) == (2, 1)
    steps = [event.data["step"] for event in shop.events.read(job_id) if event.data.get("stage") == "draw"]
    assert steps == sorted(steps) and steps.count(0) == 1, "it began anew"
    undisturbed = shop.wait(shop.draw(steps=60, seed=5))
    assert np.array_equal(shop.pixels(job), shop.pixels(undisturbed))
    assert list(shop.storage.list(f"checkpoints/{job_id}")) == []


@pytest.mark.slow
@one_database
def test_a_second_signal_hands_back_at_once(shop: Shop) -> None:
    process = shop.worker(drain_seconds=60.0)
    job_id = shop.draw(steps=1000, step_seconds=0.1)
    shop.wait_for_step(job_id, 1)
    process.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.process.poll() is None
    assert process.stop(10, number=signal.SIGINT) == 0
    assert shop.jobs.get(job_id).status is Status.QUEUED


@pytest.mark.slow
@one_database
def test_tickets_without_jobs_end_quietly(shop: Shop) -> None:
    process = shop.worker()
    shop.tickets.send("default", 200)
    wait_until(lambda: shop.tickets.waiting("default") == 0, what="the tickets to be taken")
    assert shop.wait(shop.draw()).status is Status.SUCCEEDED
    assert "Traceback" not in process.said()


@pytest.mark.slow
@one_database
def test_scheduled_jobs_run_when_they_are_due_and_expired_ones_never(shop: Shop) -> None:
    due = shop.submit([shop.new(run_at=time.time() + 1.0)])[0]
    expired = shop.submit([shop.new(expires_in=0.1)], tickets=False)[0]
    time.sleep(0.2)
    shop.worker()
    job = shop.wait(due)
    assert job.status is Status.SUCCEEDED
    assert job.started_at is not None and job.run_at is not None and job.started_at >= job.run_at
    assert shop.wait(expired).status is Status.EXPIRED


@pytest.mark.slow
@one_database
def test_the_most_urgent_job_runs_first(shop: Shop) -> None:
    ids = {priority: shop.submit([shop.new(priority=priority)], tickets=False)[0] for priority in (1, 9, 5)}
    shop.tickets.send("default", 3)
    shop.worker(slots=1)
    started = {priority: shop.wait(job_id).started_at for priority, job_id in ids.items()}
    assert sorted(started, key=lambda priority: started[priority] or 0.0) == [9, 5, 1]
