"""Storing what was computed takes as long as it takes; the device does not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from shared.db.tables import jobs
from shared.jobs.attempts import Attempts
from shared.jobs.entities import Job, Succeeded
from shared.states import Status
from tests.servers import wait_until
from tests.worker.conftest import LEASE, Shop
from worker.attempts.results import Results
from worker.container import WorkerContainer
from worker.engines.contract.engine import Result
from worker.engines.fake import engine


class SlowStorage:
    """Holds what is to be stored until ``release``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stuck: list[str] = []
        self.release = threading.Event()
        store = Results.store

        def wait(results: Results, job: Job, result: Result, load_seconds: float) -> Succeeded:
            self.stuck.append(job.id)
            assert self.release.wait(120)
            return store(results, job, result, load_seconds)

        monkeypatch.setattr(Results, "store", wait)


@pytest.fixture
def container(shop: Shop) -> Iterator[WorkerContainer]:
    """A worker of one slot in this process, and nobody but the test takes its tickets."""
    container = WorkerContainer(shop.settings.with_(slots=1))
    container.open()
    yield container
    container.close()


def _lease(shop: Shop, job_id: str) -> float:
    """Until when the job is the worker's."""
    with shop.database.read() as connection:
        return float(
            connection.execute(sa.select(jobs.c.lease_until).where(jobs.c.id == job_id)).scalar_one()
        )


def _ticket(container: WorkerContainer) -> threading.Thread:
    thread = threading.Thread(target=container.runner.ticket, args=("default",))
    thread.start()
    return thread


@pytest.mark.slow
def test_the_next_job_computes_while_the_last_one_is_stored(
    shop: Shop, container: WorkerContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SlowStorage(monkeypatch)
    first, second, third = (shop.submit([shop.new(steps=2)], tickets=False)[0] for _ in range(3))
    threads = [_ticket(container)]
    try:
        wait_until(lambda: storage.stuck == [first], 60, what="the first job to be stored")
        threads.append(_ticket(container))
        shop.wait_for_step(second, 2, 60)
        assert shop.jobs.get(first).status is Status.RUNNING
        # as many wait to be stored as there are slots; then nothing more is begun
        threads.append(_ticket(container))
        assert shop.jobs.get(third).status is Status.QUEUED
        later = _lease(shop, first) + 2 * LEASE
        wait_until(lambda: _lease(shop, first) > later, 60, what="the lease to be renewed")
        assert shop.jobs.get(third).status is Status.QUEUED
    finally:
        storage.release.set()
        for thread in threads:
            thread.join()
    assert [job.status for job in shop.wait_all([first, second, third])] == [Status.SUCCEEDED] * 3


def test_a_house_that_closes_ends_what_was_computed(
    shop: Shop, container: WorkerContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SlowStorage(monkeypatch)
    job = shop.submit([shop.new(steps=2)], tickets=False)[0]
    _ticket(container).join()
    wait_until(lambda: storage.stuck == [job], 60, what="the job to be stored")
    closing = threading.Thread(target=container.completer.close)
    closing.start()
    storage.release.set()
    closing.join()
    assert shop.jobs.get(job).status is Status.SUCCEEDED


@pytest.mark.parametrize("place", ["while it computes", "while it is stored"])
def test_what_nobody_foresaw_is_told_without_its_words_and_kept_for_the_operator(
    place: str,
    shop: Shop,
    container: WorkerContainer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise FileNotFoundError("/srv/models/secret.bin on 10.0.0.7")

    target = (engine, "_preview") if place == "while it computes" else (Results, "store")
    monkeypatch.setattr(*target, fail)
    [job_id] = shop.submit([shop.new(steps=2)], tickets=False)
    _ticket(container).join()
    job = shop.wait(job_id)
    assert (job.status, job.attempts) == (Status.FAILED, 1)
    assert job.error == {
        "type": "internal",
        "message": "internal error (FileNotFoundError); "
        "the worker's log and, for admins, the job's attempts say more",
        "retryable": False,
    }
    [attempt] = Attempts(shop.database).of([job_id])[job_id]
    assert attempt.error == job.error
    for kept in (attempt.traceback or "", caplog.text):
        assert "in fail\n" in kept and "FileNotFoundError: /srv/models/secret.bin on 10.0.0.7" in kept
