"""What retention removes, and what it never does, over a folder and a bucket."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.named_locks import NamedLocks
from shared.db.tables import job_inputs
from shared.errors import NotFound
from shared.files.retention import RetentionStore
from shared.files.store import FileRecord, FileStore, NewFile
from shared.ids import new_id
from shared.jobs.entities import Finish, Job, NewModel, NewOutput, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.store import JobStore
from shared.settings import Settings
from shared.storage import Storage
from shared.webhooks.outbox import Outbox
from tests.jobs.factory import submit
from worker.services.retention import Retention

#: hours that are over by the time they are looked at
AT_ONCE = 1e-9

#: each kind of database and of storage once
pytestmark = pytest.mark.parametrize(
    ("database_url", "storage"), [("sqlite", "folder"), ("postgresql", "bucket")], indirect=True
)


class House:
    """A store with files in it, and retention over them."""

    def __init__(self, database: Database, storage: Storage, settings: Settings) -> None:
        self.database, self.storage, self.settings = database, storage, settings
        self.jobs, self.leases = JobStore(database), Leases(database, 30)
        self.files = FileStore(database)

    def keep(self, *, outputs: float = 0, uploads: float = 0, orphans: float = 0) -> None:
        settings = self.settings.with_(
            keep_outputs_hours=outputs, keep_uploads_hours=uploads, keep_orphans_hours=orphans
        )
        Retention(
            settings,
            "wrk_1",
            locks=NamedLocks(self.database),
            files=RetentionStore(self.database),
            outbox=Outbox(self.database),
            storage=self.storage,
        ).run_once()

    def upload(self, purpose: str = "input") -> FileRecord:
        stored = self.storage.write(f"files/{new_id('file')}", b"a file")
        new = NewFile(
            tenant="default",
            filename="a.png",
            purpose=purpose,
            media_type="image/png",
            bytes=stored.bytes,
            sha256=stored.sha256,
            key=stored.key,
        )
        return self.files.add(new)

    def finished(self, **ending: Any) -> Job:
        """A job that has ended, with an output in the storage."""
        submit(self.jobs)
        [job] = self.leases.claim("wrk_1", "default")
        stored = self.storage.write(f"outputs/{job.id}/{job.attempt}/0.png", b"a picture")
        output = NewOutput(
            index=0, media_type="image/png", bytes=stored.bytes, sha256=stored.sha256, key=stored.key
        )
        [ended] = self.leases.finish([Finish(job.id, job.attempt, Succeeded(outputs=(output,), **ending))])
        assert isinstance(ended, Job)
        return ended

    def stored(self) -> set[str]:
        return {key for folder in ("files", "outputs", "models") for key in self.storage.list(folder)}


@pytest.fixture
def house(database: Database, storage: Storage, settings: Settings) -> House:
    return House(database, storage, settings)


def test_by_default_what_rows_name_is_kept_for_ever(house: House) -> None:
    file, job = house.upload(), house.finished()
    house.keep(orphans=AT_ONCE)
    assert house.stored() == {file.key, job.outputs[0].key}


def test_files_and_outputs_go_when_their_time_is_over(house: House) -> None:
    file, job = house.upload(), house.finished()
    house.keep(outputs=1, uploads=1)
    assert house.stored() == {file.key, job.outputs[0].key}
    house.keep(outputs=AT_ONCE, uploads=AT_ONCE)
    assert house.stored() == set()
    assert house.jobs.get(job.id).outputs == ()
    with pytest.raises(NotFound):
        house.files.get(file.id)


def test_what_a_waiting_or_running_job_reads_stays_until_it_has_ended(house: House) -> None:
    file, by_id, by_job = house.upload(), house.finished(), house.finished()
    reader = submit(
        house.jobs,
        input={
            "image": file.id,
            "frames": [{"deep": by_id.outputs[0].id}],
            "mask": {"job": by_job.id, "output": 0},
        },
    )
    needed = {file.key, by_id.outputs[0].key, by_job.outputs[0].key}
    house.keep(outputs=AT_ONCE, uploads=AT_ONCE, orphans=AT_ONCE)
    assert house.stored() == needed
    [claimed] = house.leases.claim("wrk_1", "default")
    house.keep(outputs=AT_ONCE, uploads=AT_ONCE, orphans=AT_ONCE)
    assert house.stored() == needed
    house.leases.finish([Finish(reader.id, claimed.attempt, Succeeded())])
    house.keep(outputs=AT_ONCE, uploads=AT_ONCE)
    assert house.stored() == set()


def test_a_file_of_a_submission_that_was_never_made_goes_after_the_grace_of_orphans(house: House) -> None:
    """The process died between storing a ``data:`` URI and committing the job."""
    lost, used, uploaded = house.upload("job-input"), house.upload("job-input"), house.upload()
    submit(house.jobs, input={"image": used.id})
    house.keep(orphans=24)
    assert house.stored() == {lost.key, used.key, uploaded.key}
    house.keep(orphans=AT_ONCE)
    assert house.stored() == {used.key, uploaded.key}


def test_orphans_go_after_their_grace_and_not_before(house: House) -> None:
    deleted = house.finished()
    house.jobs.delete(deleted.id)
    for key in ("files/file_of_nobody", f"models/{deleted.id}-1/weights.bin"):
        house.storage.write(key, b"x")
    there = house.stored()
    assert len(there) == 3
    house.keep(orphans=24)
    assert house.stored() == there
    house.keep(orphans=AT_ONCE)
    assert house.stored() == set()


def test_what_an_attempt_that_runs_has_stored_is_no_orphan_yet(house: House) -> None:
    submit(house.jobs)
    [job] = house.leases.claim("wrk_1", "default")
    keys = {f"outputs/{job.id}/1/0.png", f"models/{job.id}-1/weights.bin"}
    for key in keys:
        house.storage.write(key, b"x")
    house.keep(orphans=AT_ONCE)
    assert house.stored() == keys


def test_the_files_of_a_trained_model_stay_and_those_it_replaced_go(house: House) -> None:
    folders = []
    for _ in range(2):
        submit(house.jobs)
        [job] = house.leases.claim("wrk_1", "default")
        folders.append(f"models/{job.id}-1")
        house.storage.write(f"{folders[-1]}/weights.bin", b"x")
        model = NewModel(id="mine", entry={"prefix": folders[-1]})
        house.leases.finish([Finish(job.id, job.attempt, Succeeded(model=model))])
    house.keep(orphans=AT_ONCE)
    assert house.stored() == {f"{folders[1]}/weights.bin"}


def test_one_worker_at_a_time_works(house: House) -> None:
    file = house.upload()
    assert NamedLocks(house.database).try_lock("retention", "wrk_other", 60)
    house.keep(uploads=AT_ONCE)
    assert house.stored() == {file.key}


def test_deleting_a_job_removes_the_files_made_for_it_alone(house: House) -> None:
    made, shared, uploaded = house.upload("job-input"), house.upload("job-input"), house.upload()
    job = submit(house.jobs, input={"image": made.id, "mask": shared.id, "audio": uploaded.id})
    other = submit(house.jobs, input={"image": shared.id})
    house.jobs.cancel(job.id)
    assert house.jobs.delete(job.id) == [made.key]
    with pytest.raises(NotFound):
        house.files.get(made.id)
    house.jobs.cancel(other.id)
    assert house.jobs.delete(other.id) == [shared.key]
    assert house.files.get(uploaded.id) == uploaded
    with house.database.read() as connection:
        assert list(connection.execute(sa.select(job_inputs))) == []


def test_a_job_that_names_no_file_costs_no_row(house: House) -> None:
    submit(house.jobs, input={"prompt": "file_of apples", "steps": 3})
    with house.database.read() as connection:
        assert list(connection.execute(sa.select(job_inputs))) == []
