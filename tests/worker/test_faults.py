"""What kills processes and servers in mid-work: every job ends, once."""

from __future__ import annotations

import time

import numpy as np
import pytest

from shared.states import Status
from tests.servers import Valkey, wait_until
from tests.worker.conftest import Shop

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_a_job_whose_worker_is_killed_runs_again_and_ends_once(shop: Shop) -> None:
    first = shop.worker()
    job_id = shop.draw(steps=30, step_seconds=0.1, seed=3)
    shop.wait_for_step(job_id, 3)
    first.kill()
    shop.worker()
    job = shop.wait(job_id)
    assert job.status is Status.SUCCEEDED
    assert (job.attempt, job.attempts) == (2, 2)
    assert shop.attempts_run(job_id) == [1, 2]
    assert list(shop.storage.list(f"outputs/{job_id}")) == [f"outputs/{job_id}/2/0.png"]
    undisturbed = shop.wait(shop.draw(steps=30, seed=3))
    assert np.array_equal(shop.pixels(job), shop.pixels(undisturbed))


@one_database
def test_what_a_dead_attempt_stored_is_removed_when_a_later_one_ends(shop: Shop) -> None:
    job_id = shop.draw()
    [dead] = shop.leases.claim("wrk_dead", "default")
    shop.storage.write(f"outputs/{job_id}/{dead.attempt}/0.png", b"never named")
    shop.reaper.reap_worker(
        "wrk_dead", [job_id]
    )  # and the upkeep that did so died before it took the file back
    shop.worker()
    assert shop.wait(job_id).attempt == 2
    named = [f"outputs/{job_id}/2/0.png"]
    wait_until(lambda: list(shop.storage.list(f"outputs/{job_id}")) == named, what="the orphan to go")


@one_database
def test_a_killed_job_goes_on_from_its_checkpoint(shop: Shop) -> None:
    first = shop.worker()
    job_id = shop.draw(steps=80, step_seconds=0.1)
    wait_until(lambda: any(shop.storage.list(f"checkpoints/{job_id}")), what="a checkpoint")
    shop.wait_for_step(job_id, 15)
    first.kill()
    shop.worker()
    shop.wait(job_id)
    drawn = [event.data["step"] for event in shop.events.read(job_id) if event.data.get("stage") == "draw"]
    assert drawn.count(0) == 1, "it began anew"


@one_database
def test_a_job_that_kills_every_worker_fails_and_the_others_go_on(shop: Shop) -> None:
    killer = shop.draw(steps=5, crash_at_step=2, max_attempts=2)
    victim = shop.submit([shop.new(steps=40, step_seconds=0.1)])[0]
    for _ in range(2):
        process = shop.worker()
        process.wait(30)
    shop.worker()
    lost = shop.wait(killer)
    assert lost.status is Status.FAILED and lost.attempts == 2
    assert lost.error is not None and lost.error["type"] == "worker-lost"
    assert shop.wait(victim).status is Status.SUCCEEDED


@one_database
def test_those_that_compute_with_a_killer_die_with_it_once_and_no_more(shop: Shop) -> None:
    killer = shop.draw(steps=5, step_seconds=0.1, crash_at_step=2)
    beside = shop.submit([shop.new(steps=6, step_seconds=0.1, seed=seed) for seed in range(3)])
    for _ in range(3):
        shop.worker().process.wait(60)
    shop.worker()
    assert shop.wait(killer).attempts == 3
    for job in shop.wait_all(beside):
        assert job.status is Status.SUCCEEDED and job.attempts <= 2, job


def test_nothing_is_lost_when_valkey_is_flushed_and_restarted_under_load(shop: Shop, valkey: Valkey) -> None:
    processes = [shop.worker(slots=4) for _ in range(2)]
    ids = shop.submit([shop.new(steps=2, step_seconds=0.01, seed=seed) for seed in range(150)])
    wait_until(lambda: shop.jobs.counts().get("succeeded", 0) > 20, what="the first jobs")
    valkey.flush()
    wait_until(lambda: shop.jobs.counts().get("succeeded", 0) > 50, what="jobs after the flush")
    valkey.kill()
    ids += shop.submit([shop.new(seed=seed) for seed in range(50)])
    time.sleep(1.0)
    valkey.start()
    jobs = shop.wait_all(ids)
    assert {job.status for job in jobs} == {Status.SUCCEEDED}
    assert {job.attempt for job in jobs} == {1}
    assert all(process.process.poll() is None for process in processes)


@one_database
def test_a_hung_valkey_holds_up_no_running_job(shop: Shop, valkey: Valkey) -> None:
    shop.worker()
    job_id = shop.draw(steps=20, step_seconds=0.05)
    shop.wait_for_step(job_id, 1)
    valkey.pause()
    try:
        assert shop.wait(job_id, 15).status is Status.SUCCEEDED
    finally:
        valkey.resume()
    assert shop.wait(shop.draw()).status is Status.SUCCEEDED


def test_two_workers_that_share_a_queue_run_no_job_twice(shop: Shop) -> None:
    workers = [shop.worker(slots=4) for _ in range(2)]
    ids = shop.submit([shop.new(steps=1, step_seconds=0.01, seed=seed) for seed in range(200)])
    shop.tickets.send("default", 200)  # doubled tickets must do no harm either
    jobs = shop.wait_all(ids)
    assert {job.status for job in jobs} == {Status.SUCCEEDED}
    assert {job.attempt for job in jobs} == {1}
    wait_until(lambda: shop.attempts_run(ids[-1]) != [], what="the last events")
    assert all(shop.attempts_run(job_id) == [1] for job_id in ids)
    assert len({job.worker for job in jobs}) == len(workers), "one worker did everything"


def test_a_worker_that_comes_back_from_the_dead_changes_nothing(shop: Shop) -> None:
    frozen = shop.worker(slots=1)
    job_id = shop.draw(steps=25, step_seconds=0.1, seed=9)
    shop.wait_for_step(job_id, 5)
    for process in frozen.family():
        process.suspend()
    shop.worker(slots=1)
    job = shop.wait(job_id)
    assert job.attempt == 2
    for process in frozen.family():
        process.resume()
    time.sleep(4.0)  # long enough for it to finish what it had begun, were it not told
    assert shop.jobs.get(job_id) == job
    assert list(shop.storage.list("outputs")) == [f"outputs/{job_id}/2/0.png"]
    assert frozen.process.poll() is None
