"""Threads that hang: their jobs end, others go on elsewhere, and the worker leaves to be started again."""

from __future__ import annotations

import time

import pytest

from shared.exit_codes import START_AGAIN
from shared.jobs.attempts import Attempts
from shared.jobs.entities import Job
from shared.states import Status
from tests.servers import Qanvas, wait_until
from tests.worker.conftest import Shop

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

#: seconds without progress that are a hang
STALL = 2.0


def worker(shop: Shop) -> Qanvas:
    return shop.worker(stall_seconds=STALL)


def left(process: Qanvas) -> bool:
    """Whether it has ended with the status that asks for another start."""
    return process.wait(60) == START_AGAIN


def said(process: Qanvas) -> str:
    return process.errors.read_text()


def error_of(job: Job) -> tuple[Status, str]:
    assert job.error is not None
    return job.status, job.error["type"]


def test_a_model_that_hangs_while_it_is_loaded_costs_its_job_and_the_worker_nobody_else(shop: Shop) -> None:
    first = worker(shop)
    running = shop.draw(steps=200, step_seconds=0.05)
    shop.wait_for_step(running, 1)
    hanging = shop.draw(model="fake-hanging", max_attempts=1)
    assert left(first)
    lost = shop.wait(hanging)
    assert error_of(lost) == (Status.FAILED, "worker-lost")
    assert lost.error is not None
    assert f"hung (loading a model made no progress for {STALL:g} s)" in lost.error["message"]
    assert "loading.py" in said(first), "the log tells where each thread was"
    back = shop.jobs.get(running)
    assert (back.status, back.attempt, back.attempts) == (Status.QUEUED, 1, 0)
    [attempt] = Attempts(shop.database).of([running])[running]
    assert attempt.how == "handed-back"
    worker(shop)
    assert shop.wait(running).status is Status.SUCCEEDED


@one_database
def test_a_deadline_is_heard_while_the_model_loads_and_others_wait_for_theirs(shop: Shop) -> None:
    process = shop.worker()
    shop.wait(shop.draw())
    late = shop.draw(model="fake-hanging", timeout=1.0)
    patient = shop.draw(model="fake-hanging", timeout=3600.0)
    began = time.monotonic()
    job = shop.wait(late, 30)
    assert time.monotonic() - began < 25
    assert job.error == {
        "type": "deadline",
        "message": "the job ran longer than its timeout of 1 s",
        "retryable": False,
    }
    assert shop.jobs.get(patient).status is Status.RUNNING
    assert shop.wait(shop.draw()).status is Status.SUCCEEDED, "of a model that is loaded"
    assert process.process.poll() is None


@one_database
def test_jobs_that_wait_for_a_load_behind_one_that_hangs_run_elsewhere_uncounted(shop: Shop) -> None:
    first = worker(shop)
    shop.draw(model="fake-hanging", timeout=1.0)
    behind = [shop.draw(seed=seed) for seed in range(3)]
    assert left(first)
    worker(shop)
    for job_id in behind:
        job = shop.wait(job_id)
        assert (job.status, job.attempts) == (Status.SUCCEEDED, 1)


@one_database
def test_a_job_that_hangs_while_it_computes_ends_at_its_deadline_and_others_go_back(shop: Shop) -> None:
    first = worker(shop)
    hanging = shop.draw(steps=5, hang_at_step=2, timeout=1.0)
    wait_until(lambda: shop.jobs.get(hanging).status is Status.RUNNING, what="the job to run")
    beside = shop.draw(seed=2)
    assert left(first)
    assert error_of(shop.wait(hanging)) == (Status.FAILED, "deadline")
    [attempt] = Attempts(shop.database).of([hanging])[hanging]
    assert attempt.how == "failed"
    worker(shop)
    job = shop.wait(beside)
    assert (job.status, job.attempts) == (Status.SUCCEEDED, 1)


@one_database
def test_a_job_without_a_deadline_that_hangs_every_worker_is_given_up(shop: Shop) -> None:
    hanging = shop.draw(steps=5, hang_at_step=1, max_attempts=2)
    for _ in range(2):
        assert left(worker(shop))
    lost = shop.wait(hanging)
    assert error_of(lost) == (Status.FAILED, "worker-lost") and lost.attempts == 2


@one_database
def test_a_job_that_hangs_and_is_canceled_ends_canceled(shop: Shop) -> None:
    process = worker(shop)
    hanging = shop.draw(steps=5, hang_at_step=1)
    wait_until(lambda: shop.jobs.get(hanging).status is Status.RUNNING, what="the job to run")
    shop.jobs.cancel(hanging)
    assert left(process)
    assert shop.wait(hanging).status is Status.CANCELED


@one_database
def test_a_worker_that_is_told_to_stop_stops_though_a_job_hangs(shop: Shop) -> None:
    process = shop.worker(stall_seconds=STALL, drain_seconds=0.2)
    hanging = shop.draw(steps=5, hang_at_step=1, timeout=3600.0)
    wait_until(lambda: shop.jobs.get(hanging).status is Status.RUNNING, what="the job to run")
    process.process.terminate()
    assert left(process)
    assert shop.jobs.get(hanging).status is Status.QUEUED
    [gone] = shop.registry.alive(within=60)
    assert gone.queues == () and gone.trouble == f"hung (computing made no progress for {STALL:g} s)"


#: a thread that never comes back, as from a network file system whose server is gone
HANG = "import threading\ndef hang(*_, **__): threading.Event().wait()\n"


@one_database
@pytest.mark.parametrize(
    ("hangs", "what", "attempts"),
    [
        ("shared.storage.files.FileStorage.write", "the storage's write", 1),
        ("worker.media.encoders.encode_png", "encoding an output", 2),
        ("worker.attempts.preparer.Preparer.order", "preparing a job", 1),
        ("shared.jobs.leases.Leases.finish", "writing to the database", 1),
    ],
)
def test_what_hangs_around_a_job_ends_the_worker_and_the_job_runs_elsewhere(
    hangs: str, what: str, attempts: int, shop: Shop
) -> None:
    """The attempt counts where the job may be why, as when its picture is encoded."""
    module, _, name = hangs.rpartition(".")
    if hangs.startswith("shared.jobs"):  # inside a transaction
        hang = (
            "import shared.jobs.leases as leases\n"
            "def finish(self, finishes):\n    with self._database.write(): hang()\n"
            "leases.Leases.finish = finish"
        )
    else:
        owner = module.rpartition(".")[2] if module.rpartition(".")[2][0].isupper() else ""
        path = module.removesuffix(f".{owner}") if owner else module
        hang = f"import {path} as module\nmodule.{owner + '.' if owner else ''}{name} = hang"
    first = shop.worker(HANG + hang, stall_seconds=STALL)
    job_id = shop.draw()
    assert left(first)
    assert f"hung ({what} made no progress" in said(first)
    shop.worker()
    job = shop.wait(job_id)
    assert (job.status, job.attempt, job.attempts) == (Status.SUCCEEDED, 2, attempts)


@one_database
def test_a_worker_whose_file_system_hangs_when_it_starts_ends_to_be_started_again(shop: Shop) -> None:
    process = shop.start(HANG + "import fcntl\nfcntl.flock = hang", stall_seconds=STALL)
    assert left(process)
    assert "hung (starting made no progress" in said(process) and "scratch.py" in said(process)


@one_database
def test_a_job_whose_deadline_comes_while_its_files_are_fetched_ends_and_the_worker_goes_on(
    shop: Shop,
) -> None:
    process = shop.worker(HANG + "import worker.attempts.preparer as module\nmodule.materialise = hang")
    assert error_of(shop.wait(shop.draw(timeout=1.0), 30)) == (Status.FAILED, "deadline")
    assert process.process.poll() is None


@one_database
def test_a_download_of_which_nothing_comes_fails_those_who_wait_and_not_the_worker(shop: Shop) -> None:
    """Other models go on: the thread that hangs holds up nobody else."""
    process = shop.worker(
        HANG + "import worker.attempts.preparer as module\nmodule.materialise = hang", stall_seconds=STALL
    )
    for _ in range(2):
        job = shop.wait(shop.draw(max_attempts=1))
        assert error_of(job) == (Status.FAILED, "model-unavailable")
        assert job.error is not None and "do not come any more" in job.error["message"]
    assert process.process.poll() is None


@one_database
def test_a_worker_whose_interpreter_hangs_loses_its_leases_and_others_take_its_jobs(shop: Shop) -> None:
    """Native code that keeps the interpreter's lock stops the watchdog, and the renewal of leases with it."""
    keeps = "import ctypes\ndef hang(*_): ctypes.PyDLL(None).sleep(600)\n"
    hung = shop.worker(
        keeps + "import worker.engines.fake.engine as module\nmodule._fault = hang", stall_seconds=STALL
    )
    job_id = shop.draw()
    wait_until(lambda: shop.jobs.get(job_id).status is Status.RUNNING, what="the job to run")
    shop.worker()
    job = shop.wait(job_id)
    assert (job.status, job.attempt) == (Status.SUCCEEDED, 2)
    assert hung.process.poll() is None
