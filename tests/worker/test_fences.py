"""Workers that are stopped and go on after their jobs have been given to others."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from shared.jobs.leases import Leases
from shared.jobs.workers import Worker
from shared.states import Status
from tests.servers import Postgres, Qanvas, wait_until
from tests.worker.conftest import LEASE, Shop, worker_context
from worker.attempts.checkpoints import Checkpoints
from worker.attempts.held_job import HeldJob
from worker.attempts.lease_renewal import LeaseRenewer
from worker.container import WorkerContainer
from worker.engines.contract.engine import StopReason
from worker.services.maintenance import Maintenance

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@contextmanager
def stopped(worker: Qanvas) -> Iterator[None]:
    """SIGSTOP to all of the worker's processes, and SIGCONT at the end."""
    family = worker.family()
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in family:
            process.resume()


def kept(shop: Shop) -> list[str]:
    """Everything that is stored, but for what attempts that run may be writing now."""
    return [key for folder in ("outputs", "models", "checkpoints") for key in shop.storage.list(folder)]


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_jobs_that_others_took_over_are_not_harmed_when_their_first_worker_goes_on(shop: Shop) -> None:
    # the first checkpoint comes after a second; all of them are beyond it when the worker is stopped
    workers = [shop.worker(slots=6) for _ in range(2)]
    ids = shop.submit([shop.new(steps=45, step_seconds=0.1, seed=seed) for seed in range(8)])
    for job_id in ids:
        shop.wait_for_step(job_id, 15)
    of_first = {one.running for one in shop.registry.alive(within=5) if one.pid == workers[0].pid}.pop()
    assert of_first
    with stopped(workers[0]):
        wait_until(
            lambda: all(shop.jobs.get(job_id).attempt == 2 for job_id in of_first),
            what="the other worker to take over",
        )
        wait_until(
            lambda: all((shop.jobs.get(job_id).checkpoint or "2").startswith("2") for job_id in of_first),
            what="it to save checkpoints of its own",
        )
    for job in shop.wait_all(ids):
        assert job.status is Status.SUCCEEDED, job.error
        assert job.attempt <= 2, job
    undisturbed = shop.wait(shop.draw(steps=45, seed=0))
    assert np.array_equal(shop.pixels(shop.jobs.get(ids[0])), shop.pixels(undisturbed))
    named = sorted(
        output.key for job_id in (*ids, undisturbed.id) for output in shop.jobs.get(job_id).outputs
    )
    wait_until(lambda: kept(shop) == named, what="nothing but the named outputs to be stored")
    assert all(worker.process.poll() is None for worker in workers)


@pytest.mark.slow
@pytest.mark.chaos
def test_a_worker_that_lost_its_jobs_while_it_was_stopped_computes_them_no_further(shop: Shop) -> None:
    frozen = shop.worker(slots=2)
    job_id = shop.draw(steps=600, step_seconds=0.1, preview_every=1)
    shop.wait_for_step(job_id, 3)
    with stopped(frozen):
        other = shop.worker(slots=2)
        wait_until(lambda: shop.jobs.get(job_id).attempt == 2, what="the other worker to take over")
        wait_until(lambda: 2 in shop.attempts_run(job_id), what="its first event")
    computed = f"{job_id}-1"
    scratch = shop.settings.data / "scratch"
    wait_until(lambda: not any(computed in path.name for path in scratch.rglob("*")), what="it to stop")
    said = shop.events.read(job_id, limit=5000)
    begun = [event.data.get("attempt") for event in said].index(2)
    drawn = [event.data["step"] for event in said[begun:] if event.data.get("stage") == "draw"]
    assert drawn == sorted(drawn), f"steps of both attempts are mixed: {drawn}"
    shop.jobs.cancel(job_id)
    shop.wait(job_id)
    assert other.process.poll() is None and frozen.process.poll() is None


@one_database
def test_an_attempt_stops_when_the_same_worker_claims_its_job_again(shop: Shop) -> None:
    leases = Leases(shop.database, 600.0)
    me = Worker(id="wrk_1", host="here", pid=1, device="cpu", slots=2, queues=("default",))
    keeper = LeaseRenewer(leases, shop.registry, 600.0, lambda: me)
    keeper.start()
    try:
        job_id = shop.draw()
        [first] = leases.claim("wrk_1", "default")
        lost = HeldJob(first, shop.events, begin=lambda job_id, attempt: None)
        shop.reaper.reap_worker("wrk_1", [])  # as upkeep does once the lease has run out
        [second] = leases.claim("wrk_1", "default")
        now = HeldJob(second, shop.events, begin=lambda job_id, attempt: None)
        keeper.hold(lost)
        keeper.hold(now)
        wait_until(lambda: lost.reason is StopReason.LOST, what="the old attempt to be told")
        keeper.release(lost)
        shop.jobs.cancel(job_id)
        wait_until(lambda: now.reason is StopReason.CANCELED, what="the new one still to be renewed")
    finally:
        keeper.stop()


@pytest.mark.slow
@one_database
def test_what_a_worker_stored_after_it_lost_the_job_is_removed_by_the_next_one_on_its_machine(
    shop: Shop,
) -> None:
    """It was stopped, went on, and was killed before it could remove its files itself."""
    job_id = shop.draw()
    shop.leases.claim("wrk_stopped", "default")
    shop.reaper.reap_worker("wrk_stopped", [])
    first = shop.worker()
    named = shop.wait(job_id).outputs[0].key
    late = [f"outputs/{job_id}/1/0.png", f"models/{job_id}-1/weights.bin"]
    for key in late:
        shop.storage.write(key, b"too late")
    program = (
        "import os, pathlib, sys; from worker.attempts.scratch import Scratch\n"
        "s = Scratch(pathlib.Path(sys.argv[1]), 'wrk_stopped')\n"
        "for attempt in (1, 2): s.begin(sys.argv[2], attempt); s.computed(sys.argv[2], attempt)\n"
        "os._exit(9)"
    )
    command = [sys.executable, "-c", program, str(shop.settings.data / "scratch"), job_id]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == 9
    first.stop()
    shop.worker()
    wait_until(lambda: kept(shop) == [named], what="what came too late to be removed, and nothing else")


@pytest.mark.parametrize("damage", ["cut", "replaced", "gone"])
@one_database
def test_a_job_whose_checkpoint_is_damaged_starts_anew(
    shop: Shop, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = shop.draw(steps=3, seed=4)
    [dead] = shop.leases.claim("wrk_dead", "default")
    (tmp_path / "saved").mkdir()
    np.savez(tmp_path / "saved" / "canvas.npz", pixels=np.zeros((64, 64, 3), np.uint8), step=2)
    hold = partial(shop.leases.name_checkpoint, "wrk_dead", job_id, dead.attempt)
    Checkpoints(shop.storage).save(job_id, dead.attempt, tmp_path / "saved", hold)
    [key] = shop.storage.list("checkpoints")
    with shop.storage.open(key) as file:
        content = file.read()
    if damage == "gone":
        shop.storage.delete(key)
    else:
        shop.storage.write(key, content[: len(content) // 2] if damage == "cut" else b"of another engine")
    shop.reaper.reap_worker("wrk_dead", [])
    container = WorkerContainer(shop.settings)
    container.open()
    try:
        container.runner.ticket("default")
        job = shop.wait(job_id)
        undisturbed = shop.draw(steps=3, seed=4)
        container.runner.ticket("default")
        assert np.array_equal(shop.pixels(job), shop.pixels(shop.wait(undisturbed)))
    finally:
        container.close()
    assert (job.attempt, job.attempts) == (2, 1)
    assert f"the checkpoint of {job_id} cannot be read" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_takes_no_writes_for_longer_than_a_lease_costs_no_attempt(
    shop: Shop, postgres: Postgres
) -> None:
    workers = [shop.worker(slots=2) for _ in range(2)]
    ids = shop.submit([shop.new(steps=25, step_seconds=0.1, seed=seed) for seed in range(3)])
    ids += shop.submit([shop.new(steps=40, step_seconds=0.1)])
    for job_id in ids:
        shop.wait_for_step(job_id, 3)
    postgres.read_only(True)
    try:
        time.sleep(2 * LEASE + 1)  # some end meanwhile
    finally:
        postgres.read_only(False)
    for job in shop.wait_all(ids):
        assert (job.status, job.attempts) == (Status.SUCCEEDED, 1), job
    assert all(worker.process.poll() is None for worker in workers)


@one_database
def test_leases_that_nobody_could_renew_are_not_taken_for_dead_workers(shop: Shop) -> None:
    """The database was away for longer than a lease: those who live get a moment to say so."""
    lease = 0.3
    leases = Leases(shop.database, lease)
    job_id = shop.draw()
    [job] = leases.claim("wrk_1", "default")
    context = worker_context(shop, "wrk_2", leases=leases, upkeep_seconds=0.01, lease_seconds=lease)
    maintenance = Maintenance(context)
    time.sleep(2 * lease)
    maintenance.run_once()
    assert not leases.renew("wrk_1", {job_id: job.attempt}, {}).lost
    time.sleep(2 * lease)  # now it is the reaper that was away, as when its process was stopped
    maintenance.run_once()
    assert not leases.renew("wrk_1", {job_id: job.attempt}, {}).lost

    def reaped() -> bool:
        maintenance.run_once()
        return shop.jobs.get(job_id).status is Status.QUEUED

    wait_until(reaped, what="a worker that says nothing to be found dead all the same")
