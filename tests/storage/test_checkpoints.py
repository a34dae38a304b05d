"""Which checkpoint of a job holds, over a folder and a bucket, with a worker that was stopped in between."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from shared.db.engine import Database
from shared.errors import LeaseLost, Unavailable
from shared.jobs.entities import Failed, Finish, Job
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.store import JobStore
from shared.storage import Storage
from tests.jobs.factory import submit
from worker.attempts.checkpoints import Checkpoints

#: each kind of database and of storage once
pytestmark = pytest.mark.parametrize(
    ("database_url", "storage"), [("sqlite", "folder"), ("postgresql", "bucket")], indirect=True
)


class House:
    """Workers that save checkpoints of one job."""

    def __init__(self, database: Database, storage: Storage, folder: Path) -> None:
        self.jobs, self.leases, self.reaper = JobStore(database), Leases(database, 30), Reaper(database)
        self.storage, self.checkpoints = storage, Checkpoints(storage)
        self._folder = folder
        self._count = 0
        self.job_id = submit(self.jobs).id

    def claim(self, worker: str = "wrk_1") -> Job:
        [job] = self.leases.claim(worker, "default")
        return job

    def lose(self) -> None:
        """The worker that has the job is found dead, or seems so."""
        worker = self.jobs.get(self.job_id).worker
        assert worker is not None and len(self.reaper.reap_worker(worker, [self.job_id])) == 1

    def save(self, job: Job, worker: str = "wrk_1", **files: str) -> None:
        self._count += 1
        folder = self._folder / f"saved-{self._count}"
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        hold = partial(self.leases.name_checkpoint, worker, job.id, job.attempt)
        self.checkpoints.save(job.id, job.attempt, folder, hold)

    def resume(self, job: Job) -> dict[str, str] | None:
        """What the attempt goes on from, by name of the file."""
        self._count += 1
        found = self.checkpoints.fetch(job, self._folder / f"resume-{self._count}")
        return None if found is None else {path.name: path.read_text() for path in found.iterdir()}

    def stored(self) -> list[str]:
        return list(self.storage.list("checkpoints"))


@pytest.fixture
def house(database: Database, storage: Storage, tmp_path: Path) -> House:
    return House(database, storage, tmp_path / "local")


def test_the_latest_one_counts_and_takes_the_place_of_the_last(house: House) -> None:
    first = house.claim()
    house.save(first, state="1", old="x")
    house.save(first, state="2")
    assert len(house.stored()) == 1
    house.lose()
    assert house.resume(house.claim()) == {"state": "2"}


def test_a_job_without_one_starts_anew(house: House) -> None:
    house.claim()
    house.lose()
    assert house.resume(house.claim()) is None


def test_a_worker_that_lost_the_job_neither_replaces_nor_removes_what_its_successor_saved(
    house: House,
) -> None:
    stopped = house.claim("wrk_stopped")
    house.save(stopped, "wrk_stopped", state="of 1")
    house.lose()
    second = house.claim("wrk_2")
    house.save(second, "wrk_2", state="of 2")
    there = house.stored()
    with pytest.raises(LeaseLost):
        house.save(stopped, "wrk_stopped", state="late")
    assert house.stored() == there
    house.lose()
    assert house.resume(house.claim()) == {"state": "of 2"}


def test_an_attempt_goes_on_from_a_copy_that_outlives_the_stored_one(house: House, tmp_path: Path) -> None:
    house.save(house.claim(), state="1")
    house.lose()
    second = house.claim()
    copy = house.checkpoints.fetch(second, tmp_path / "copy")
    house.save(second, state="2")
    house.checkpoints.forget(second.id)
    assert copy is not None and (copy / "state").read_text() == "1"


def test_one_that_the_row_names_and_that_is_gone_lets_the_job_start_anew(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.save(house.claim(), state="1")
    house.checkpoints.forget(house.job_id)
    house.lose()
    assert house.resume(house.claim()) is None
    assert f"the checkpoint of {house.job_id} cannot be read, the job starts anew" in caplog.text


def test_one_whose_naming_failed_stays_beside_the_last_one_until_the_next_is_saved(house: House) -> None:
    def away(_: str) -> None:
        raise Unavailable("the database does not answer")

    job = house.claim()
    house.save(job, state="1")
    folder = house._folder / "saved-1"
    with pytest.raises(Unavailable):
        house.checkpoints.save(job.id, job.attempt, folder, away)
    assert len(house.stored()) == 2
    house.save(job, state="3")
    assert len(house.stored()) == 1
    house.lose()
    assert house.resume(house.claim()) == {"state": "3"}


def test_what_attempts_that_are_over_stored_in_vain_is_removed_and_what_a_live_one_writes_is_not(
    house: House,
) -> None:
    first = house.claim("wrk_1")
    house.save(first, "wrk_1", state="1")
    house.lose()
    second = house.claim("wrk_2")
    named = house.stored()
    of_dead, of_live = (f"checkpoints/{house.job_id}/{n}/{'a' * 32}/state" for n in (1, 2))
    for key in (of_dead, of_live):
        house.storage.write(key, b"x")
    assert house.checkpoints.job_ids() == {house.job_id}
    house.checkpoints.remove_leftovers(house.jobs.get(house.job_id))
    assert house.stored() == sorted([*named, of_live])
    house.lose()
    house.checkpoints.remove_leftovers(house.jobs.get(house.job_id))
    assert house.stored() == named
    assert house.resume(house.claim()) == {"state": "1"} and second.attempt == 2


def test_one_that_was_written_before_rows_named_them_holds_until_another_is_saved(house: House) -> None:
    house.claim()
    older = "0123456789abcdef0123456789abcdef"
    root = f"checkpoints/{house.job_id}"
    house.storage.write(f"{root}/{older}/state", b"of an older version")
    house.storage.write(f"{root}/latest", older.encode())
    house.lose()
    second = house.claim()
    house.checkpoints.remove_leftovers(house.jobs.get(house.job_id))
    assert house.resume(second) == {"state": "of an older version"}
    house.save(second, state="2")
    assert len(house.stored()) == 1
    house.lose()
    assert house.resume(house.claim()) == {"state": "2"}


@pytest.mark.parametrize("pointer", [b"", b"../../files", b"\xff\xfe", b"gone"])
def test_a_pointer_of_an_older_version_that_leads_nowhere_lets_the_job_start_anew(
    house: House, pointer: bytes
) -> None:
    house.claim()
    house.storage.write(f"checkpoints/{house.job_id}/latest", pointer)
    house.lose()
    assert house.resume(house.claim()) is None


def test_a_job_that_has_ended_names_no_checkpoint(house: House) -> None:
    job = house.claim()
    house.save(job, state="1")
    assert house.jobs.get(job.id).checkpoint
    house.leases.finish([Finish(job.id, job.attempt, Failed(type="internal", message="broken"))])
    assert house.jobs.get(job.id).checkpoint is None
    with pytest.raises(LeaseLost):
        house.save(job, state="2")
