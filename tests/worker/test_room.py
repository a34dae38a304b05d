"""A storage that is away for a while, and disks that are full or read-only: no job pays for it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from shared.errors import JobError, Unavailable
from shared.jobs.attempts import Attempts
from shared.states import Status
from shared.storage.files import FileStorage
from tests.disks import Disk, mountable, small_disk
from tests.receivers import Answer, Request, receiving
from tests.servers import Postgres, Qanvas, wait_until
from tests.storage.conftest import s3_endpoint  # noqa: F401 - a fixture
from tests.worker.conftest import Shop, open_shop
from worker.attempts import retry_waits
from worker.container import WorkerContainer
from worker.health.disk_full import no_room

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@contextmanager
def opened(shop: Shop, **changes: float) -> Iterator[WorkerContainer]:
    """A worker in this process; nobody but the test takes its tickets."""
    container = WorkerContainer(shop.settings.with_(slots=2, **changes))
    container.open()
    try:
        yield container
    finally:
        container.close()


def ticket(container: WorkerContainer) -> threading.Thread:
    thread = threading.Thread(target=container.runner.ticket, args=("default",))
    thread.start()
    return thread


@contextmanager
def away(shop: Shop) -> Iterator[None]:
    """The storage's folder is gone."""
    assert isinstance(shop.storage, FileStorage)
    root = shop.storage.root
    moved = root.rename(root.with_name("away"))
    try:
        yield
    finally:
        moved.rename(root)


@one_database
def test_what_was_computed_while_the_storage_was_away_is_stored_when_it_is_back(shop: Shop) -> None:
    with opened(shop) as container:
        job_id = shop.submit([shop.new(steps=2)], tickets=False)[0]
        with away(shop):
            thread = ticket(container)
            wait_until(lambda: container.fitness.trouble, what="the trouble to be seen")
            assert shop.jobs.get(job_id).status is Status.RUNNING
            wait_until(
                lambda: [one.queues for one in shop.registry.alive(within=60)] == [()],
                what="others to hear that it takes no jobs",
            )
            [listed] = shop.registry.alive(within=60)
            assert listed.trouble == "the storage cannot be written"
        job = shop.wait(job_id)
        thread.join()
        assert (job.status, job.attempt) == (Status.SUCCEEDED, 1), job.error
        shop.pixels(job)
        wait_until(lambda: container.fitness.trouble is None, what="jobs to be taken again")


@one_database
def test_a_storage_that_stays_away_gets_the_job_handed_back_and_no_attempt_counts(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retry_waits, "TRY_FOR", 0.5)
    with opened(shop) as container:
        job_id = shop.submit([shop.new(steps=2, max_attempts=1)], tickets=False)[0]
        with away(shop):
            thread = ticket(container)
            wait_until(lambda: Attempts(shop.database).of([job_id])[job_id], what="the job to be back")
            second = ticket(container)  # is kept, and begins nothing
            assert (shop.jobs.get(job_id).status, shop.jobs.get(job_id).attempt) == (Status.QUEUED, 1)
        thread.join()
        job = shop.wait(job_id)
        second.join()
        assert (job.status, job.attempt, job.attempts) == (Status.SUCCEEDED, 2, 1), job.error
        assert [one.how for one in Attempts(shop.database).of([job_id])[job_id]] == ["handed-back"]
        said = [one for one in caplog.messages if one.startswith("no jobs are taken until this is mended")]
        assert len(said) == 1 and "QANVAS_STORAGE_URL" in said[0]


@one_database
def test_an_input_is_not_taken_for_deleted_while_the_storage_is_away(shop: Shop) -> None:
    first = shop.submit([shop.new(steps=1)], tickets=False)[0]
    with opened(shop) as container:
        ticket(container).join()
        shop.wait(first)
        reader = shop.submit([shop.new(steps=1, image={"job": first, "output": 0})], tickets=False)[0]
        with away(shop):
            thread = threading.Thread(target=container.runner.ticket, args=("default",))
            thread.start()
            wait_until(lambda: container.fitness.trouble, what="the trouble to be seen")
            assert shop.jobs.get(reader).status is Status.RUNNING
        thread.join()
        job = shop.wait(reader)
        assert (job.status, job.attempt) == (Status.SUCCEEDED, 1), job.error


@one_database
def test_a_job_is_canceled_while_its_result_waits_for_the_storage(shop: Shop) -> None:
    with opened(shop) as container:
        job_id = shop.submit([shop.new(steps=2)], tickets=False)[0]
        with away(shop):
            ticket(container).join()
            wait_until(lambda: container.fitness.trouble, what="the trouble to be seen")
            shop.jobs.cancel(job_id)
            assert shop.wait(job_id).status is Status.CANCELED


@one_database
def test_an_object_store_that_answers_503_gets_the_result_when_it_answers_again(
    shop: Shop,
    s3_endpoint: str,  # noqa: F811 - the fixture
) -> None:
    broken = threading.Event()

    def forward(number: int, request: Request) -> Answer:
        if broken.is_set():
            return Answer(503)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "connection")}
        url = f"{s3_endpoint}{request.path}"
        reply = httpx.request(request.method, url, headers=headers, content=request.body)
        kept = {k: v for k, v in reply.headers.items() if k.lower() in ("etag", "last-modified")}
        return Answer(reply.status_code, headers=kept, body=reply.content)

    with receiving(forward) as server:
        shop.settings = shop.settings.with_(storage_url=f"s3://qanvas/room?endpoint={server.url}")
        with opened(shop) as container:
            broken.set()
            job_id = shop.submit([shop.new(steps=2)], tickets=False)[0]
            thread = ticket(container)
            wait_until(lambda: container.fitness.trouble, what="the trouble to be seen")
            broken.clear()
            job = shop.wait(job_id)
            thread.join()
            assert (job.status, job.attempt) == (Status.SUCCEEDED, 1), job.error
            assert job.outputs[0].bytes


@one_database
def test_a_result_that_no_disk_ever_takes_fails_in_the_end(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the job's own files that fill the disk: between its attempts there is room."""
    monkeypatch.setattr("worker.attempts.completer._SPARED", 2)
    monkeypatch.setattr("worker.attempts.write_probe._FIRST", 0.01)
    monkeypatch.setattr("worker.attempts.write_probe._LONGEST", 0.01)

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/huge")

    monkeypatch.setattr("worker.engines.fake.engine._preview", fill)
    with opened(shop) as container:
        job_id = shop.submit([shop.new(steps=2, max_attempts=2)], tickets=False)[0]

        def ended() -> bool:
            ticket(container).join()
            return shop.jobs.get(job_id).is_terminal

        wait_until(ended, 60, what="the job to be given up")
        job = shop.jobs.get(job_id)
        assert (job.status, job.attempt, job.attempts) == (Status.FAILED, 4, 2)
        assert job.error is not None and "no worker had room for its files" in job.error["message"]


@pytest.fixture
def disk(shop: Shop, tmp_path: Path) -> Iterator[Disk]:
    """A small disk below the shop's data folder: its storage and scratch files."""
    if (reason := mountable(tmp_path)) is not None:
        pytest.skip(reason)
    with small_disk(tmp_path / "small", 12) as disk:
        yield disk


@pytest.mark.slow
@one_database
def test_a_worker_whose_disk_is_full_takes_no_jobs_until_there_is_room(
    shop: Shop, disk: Disk, qanvas: Callable[..., Qanvas]
) -> None:
    settings = shop.settings.with_(data=disk.path / "data", storage_url=(disk.path / "storage").as_uri())
    with open_shop(settings, qanvas) as small:
        worker = small.worker(slots=2)
        running = small.draw(steps=30, step_seconds=0.1)
        small.wait_for_step(running, 2)
        disk.fill()
        waiting = [small.draw(steps=2, seed=seed) for seed in range(3)]
        wait_until(lambda: [one.trouble for one in small.registry.alive(within=60)] != [None])
        assert "no jobs are taken until this is mended" in worker.said()
        disk.empty()
        jobs = small.wait_all([running, *waiting])
        assert {job.status for job in jobs} == {Status.SUCCEEDED}, [job.error for job in jobs]
        assert {job.attempts for job in jobs} == {1}
        wait_until(
            lambda: [one.trouble for one in small.registry.alive(within=60)] == [None],
            what="the worker to say that it is well",
        )
        assert worker.process.poll() is None


@pytest.mark.slow
@one_database
def test_a_read_only_disk_costs_no_attempt(shop: Shop, disk: Disk) -> None:
    # the scratch folder lies elsewhere: its lock is open for writing, which keeps a disk from being read-only
    shop.settings = shop.settings.with_(storage_url=(disk.path / "storage").as_uri())
    with opened(shop) as container:
        disk.read_only(True)
        job_id = shop.submit([shop.new(steps=2)], tickets=False)[0]
        thread = ticket(container)
        wait_until(lambda: container.fitness.trouble, what="the trouble to be seen")
        disk.read_only(False)
        job = shop.wait(job_id)
        thread.join()
        assert (job.status, job.attempt) == (Status.SUCCEEDED, 1), job.error


@one_database
def test_a_checkpoint_that_finds_no_room_is_left_out_and_the_job_goes_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("worker.engines.fake.engine.CHECKPOINT_EVERY", 0.0)
    monkeypatch.setattr("worker.engines.fake.engine.np.savez", full)
    with opened(shop) as container:
        job_id = shop.submit([shop.new(steps=2)], tickets=False)[0]
        ticket(container).join()
        assert shop.wait(job_id).status is Status.SUCCEEDED
    assert f"{job_id}: no checkpoint, its last one holds" in caplog.text


def test_only_the_systems_own_words_say_that_there_is_no_room() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    stored = Unavailable("the storage cannot be written")
    stored.__cause__ = full
    assert no_room(full) and no_room(stored)
    assert no_room(OSError(errno.EROFS, "")) and no_room(OSError(errno.EDQUOT, ""))
    assert not no_room(OSError(errno.EACCES, "no")) and not no_room(Unavailable("away"))
    for spoken_by_a_user in (JobError(os.strerror(errno.ENOSPC)), KeyError(os.strerror(errno.ENOSPC))):
        assert not no_room(spoken_by_a_user)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_ticket_that_comes_while_the_database_takes_no_writes_is_not_lost(
    shop: Shop, postgres: Postgres
) -> None:
    with opened(shop, upkeep_seconds=600.0) as container:  # which would send another one
        shop.submit([shop.new(steps=2)], tickets=False)
        postgres.read_only(True)
        try:
            container.runner.ticket("default")
        finally:
            postgres.read_only(False)
        wait_until(lambda: shop.tickets.waiting("default") == 1, what="the ticket to be back")
