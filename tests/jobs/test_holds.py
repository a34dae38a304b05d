"""Files that are removed while a job that reads them is submitted, on every database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from shared.db.engine import Database
from shared.errors import InvalidInput, NotFound
from shared.files.holds import Read
from shared.files.retention import RetentionStore
from shared.files.store import JOB_INPUT, FileRecord, FileStore, NewFile
from shared.jobs.entities import Finish, Job, NewJob, Submitted, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.store import JobStore
from tests.jobs.factory import new_job, new_output, submit
from tests.jobs.meeting import pause, started, waiting

#: seconds that are over by the time they are looked at
AT_ONCE = 1e-6


@pytest.fixture
def other(database: Database) -> Iterator[Database]:
    """A second pool of connections to the same database, as a worker's retention has."""
    opened = Database(database.url.render_as_string(hide_password=False))
    yield opened
    opened.dispose()


def upload(database: Database, **changes: Any) -> FileRecord:
    known = {
        "tenant": "default",
        "filename": "a.png",
        "purpose": "input",
        "media_type": "image/png",
        "bytes": 1,
        "sha256": "0" * 64,
        "key": "files/a",
    }
    return FileStore(database).add(NewFile(**known | changes))


def reading(reference: str, **changes: Any) -> NewJob:
    return new_job(input={"image": reference}, reads=(Read("/input/image", reference),), **changes)


def reading_output(job: Job, output: int = 0) -> NewJob:
    reference = {"job": job.id, "output": output}
    reads = (Read("/input/image", job.id, output),)
    return new_job(input={"image": reference}, reads=reads, depends_on=(job.id,))


def made(store: JobStore, leases: Leases) -> Job:
    """A job that has succeeded, with one output."""
    submit(store)
    [job] = leases.claim("wrk_1", "default")
    [ended] = leases.finish([Finish(job.id, job.attempt, Succeeded(outputs=(new_output(),)))])
    assert isinstance(ended, Job)
    return ended


@pytest.mark.parametrize("key", [None, "k"])
def test_a_file_that_is_gone_by_the_commit_is_refused_and_named(
    store: JobStore, database: Database, key: str | None
) -> None:
    file = upload(database)
    assert RetentionStore(database).expire_files(AT_ONCE, 10) == [file.key]
    there = upload(database)
    refused, taken = store.submit([reading(file.id, idempotency_key=key), reading(there.id)])
    assert isinstance(refused, InvalidInput) and isinstance(taken, Submitted)
    assert [(one.pointer, file.id in one.detail) for one in refused.errors] == [("/input/image", True)]
    assert store.counts() == {"queued": 1}


def test_an_output_that_is_gone_by_the_commit_is_refused_by_its_id_and_by_its_job(
    store: JobStore, leases: Leases, database: Database
) -> None:
    ended, kept = made(store, leases), made(store, leases)
    new = [reading(ended.outputs[0].id), reading_output(ended), reading(kept.id)]
    assert all(isinstance(one, Submitted) for one in store.submit([reading_output(kept)]))
    assert RetentionStore(database).expire_outputs(AT_ONCE, 10) == [ended.outputs[0].key]
    assert [isinstance(one, InvalidInput) for one in store.submit(new[:2])] == [True, True]
    waits = submit(store, input={"prompt": "x"})
    assert isinstance(store.submit([reading_output(waits)])[0], Submitted), "it has made nothing yet"


def test_jobs_of_one_call_are_all_refused_where_one_reads_what_is_gone(
    store: JobStore, database: Database
) -> None:
    file = upload(database)
    FileStore(database).delete(file.id)
    with pytest.raises(InvalidInput) as refused:
        store.submit([new_job(), reading(file.id)], together=True)
    assert [one.pointer for one in refused.value.errors] == ["/1/input/image"]
    assert store.counts() == {}


def test_a_replay_is_answered_though_its_file_is_gone(store: JobStore, database: Database) -> None:
    new = reading(upload(database).id, idempotency_key="k", fingerprint="f")
    [first] = store.submit([new])
    assert isinstance(first, Submitted)
    FileStore(database).delete(new.input["image"])
    assert store.submit([new]) == [Submitted(first.job, replayed=True)]


def test_text_that_looks_like_a_file_is_no_file(store: JobStore) -> None:
    assert submit(store, input={"prompt": "file_01ARZ3NDEKTSV4RRFFQ69G5FAV"})


def test_what_a_submission_holds_is_not_removed_while_it_commits(
    store: JobStore, database: Database, other: Database
) -> None:
    """Retention looks after the submission found the file, and before its commit."""
    file = upload(database)
    removed: list[Future[list[str]]] = []

    def retention() -> bool:
        removed or removed.append(started(lambda: RetentionStore(other).expire_files(AT_ONCE, 10)))
        # SQLite lets nobody else write before the commit
        return database.dialect == "sqlite" or removed[0].done()

    pause(database, "INSERT INTO job_inputs", retention)
    [answer] = store.submit([reading(file.id)])
    assert isinstance(answer, Submitted)
    assert removed[0].result(30) == []
    assert FileStore(database).get(file.id) == file


def test_a_submission_that_meets_a_removal_is_refused(
    store: JobStore, database: Database, other: Database
) -> None:
    """The submission looks after retention chose the file, and before that commits."""
    file = upload(database)
    answers: list[Future[Any]] = []

    def submission() -> bool:
        answers or answers.append(started(lambda: JobStore(other).submit([reading(file.id)])))
        return database.dialect == "sqlite" or waiting(database) > 0

    pause(database, "DELETE FROM files", submission)
    assert RetentionStore(database).expire_files(AT_ONCE, 10) == [file.key]
    [answer] = answers[0].result(30)
    assert isinstance(answer, InvalidInput)


def test_a_file_made_for_a_deleted_job_stays_where_another_comes_to_read_it(
    store: JobStore, database: Database, other: Database
) -> None:
    """The deletion waits for the submission's lock, and looks again when it has its own."""
    file = upload(database, purpose=JOB_INPUT)
    first = submit(store, input={"image": file.id})
    store.cancel(first.id)
    deleted: list[Future[Any]] = []

    def deletion() -> bool:
        deleted or deleted.append(started(lambda: JobStore(other).delete(first.id)))
        return database.dialect == "sqlite" or waiting(database) > 0

    pause(database, "INSERT INTO job_inputs", deletion)
    [answer] = store.submit([reading(file.id)])
    assert isinstance(answer, Submitted) and deleted[0].result(30) == []
    assert FileStore(database).get(file.id) == file
    with pytest.raises(NotFound):
        store.get(first.id)
