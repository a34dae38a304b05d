"""The latest checkpoint of a job, in the storage: any worker can go on from it.

Each checkpoint is a folder ``checkpoints/JOB/ATTEMPT/…`` of its own. The job's row names the one that holds,
and only the worker that has the attempt can change that (``Leases.name_checkpoint``). So a checkpoint is
there whole or not at all, also when its writer dies on the way; and a worker that was stopped, and wakes up
after another has taken over the job, cannot replace or remove what the other one saved.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable
from pathlib import Path, PurePosixPath

from shared.errors import LeaseLost, NotFound, Unavailable
from shared.jobs.entities import Job
from shared.storage.base import Storage
from worker.health.disk_full import no_room

log = logging.getLogger(__name__)

#: the file that named the folder beside it that holds, before rows did (revision 0016 of the database)
_OLDER_POINTER = "latest"


class Checkpoints:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def save(self, job_id: str, attempt: int, folder: Path, hold: Callable[[str], None]) -> None:
        """Store the folder, and let it replace the job's last checkpoint. ``hold`` makes the row name it.

        Raises Unavailable, and LeaseLost of ``hold`` when the attempt is no longer this worker's; then the
        last checkpoint still holds."""
        name = f"{attempt}/{uuid.uuid4().hex}"
        upload(self._storage, folder, _folder(job_id, name))
        try:
            hold(name)
        except LeaseLost:
            self._storage.delete_prefix(_folder(job_id, name))
            raise
        # Unavailable: the row may name it all the same, so it stays until the next one is saved
        self._remove(job_id, attempt, keep=name)

    def fetch(self, job: Job, into: Path) -> Path | None:
        """Copy the checkpoint that the attempt goes on from to ``into``, which is returned; None where there
        is none, or none that can be read: then the job starts anew.

        Raises Unavailable when the storage is away, and OSError when there is no room for the copy."""
        name = job.checkpoint or self._named_by_older_version(job.id)
        if name is None:
            return None
        try:
            self._storage.copy_folder(_folder(job.id, name), into)
        except (NotFound, OSError) as error:
            shutil.rmtree(into, ignore_errors=True)
            if no_room(error):
                raise
            log.warning("the checkpoint of %s cannot be read, the job starts anew: %s", job.id, error)
            return None
        return into

    def forget(self, job_id: str) -> None:
        """Remove all checkpoints of a job that has ended. Raises Unavailable."""
        self._storage.delete_prefix(_root(job_id))

    def job_ids(self) -> set[str]:
        """The jobs that have any."""
        return {PurePosixPath(key).parts[1] for key in self._storage.list("checkpoints")}

    def remove_leftovers(self, job: Job) -> None:
        """Remove what attempts that are over have stored and the row does not name: their workers were
        stopped or killed between storing a checkpoint and naming it."""
        over = job.attempt if job.worker is None else job.attempt - 1
        self._remove(job.id, over, keep=job.checkpoint)

    def _remove(self, job_id: str, attempt: int, *, keep: str | None) -> None:
        """Remove what attempts up to this one stored, and older versions did, but ``keep``.

        Later attempts' folders are left alone: whoever has stopped for a while does not know of them. Without
        a checkpoint to ``keep``, that of an older version still holds."""
        try:
            for name in _names(job_id, self._storage.list(_root(job_id))):
                number = _attempt(name)
                if name != keep and (keep is not None if number is None else number <= attempt):
                    self._storage.delete_prefix(_folder(job_id, name))
            if keep is not None:
                self._storage.delete(f"{_root(job_id)}/{_OLDER_POINTER}")
        except Unavailable as error:
            log.warning("old checkpoints of %s stay for now: %s", job_id, error)

    def _named_by_older_version(self, job_id: str) -> str | None:
        """The checkpoint that was left by a version whose rows named none."""
        try:
            with self._storage.open(f"{_root(job_id)}/{_OLDER_POINTER}") as file:
                name = file.read(64).decode()
        except (NotFound, UnicodeDecodeError):
            return None
        return name if name.isalnum() else None


def upload(storage: Storage, folder: Path, prefix: str) -> None:
    """Store every file of a folder below ``prefix``. Raises Unavailable."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                storage.write(f"{prefix}/{path.relative_to(folder).as_posix()}", file)


def _names(job_id: str, keys: Iterable[str]) -> Collection[str]:
    """The checkpoints that these files belong to: ``ATTEMPT/ID``, or ``ID`` alone of an older version."""
    below = [PurePosixPath(key).relative_to(_root(job_id)).parts for key in keys]
    return {"/".join(parts[:2]) if _is_attempt(parts[0]) else parts[0] for parts in below if len(parts) > 1}


def _is_attempt(part: str) -> bool:
    return part.isdigit() and len(part) < len(uuid.UUID(int=0).hex)


def _attempt(name: str) -> int | None:
    """The attempt that saved it; None for one of an older version."""
    number, _, rest = name.partition("/")
    return int(number) if rest else None


def _root(job_id: str) -> str:
    return f"checkpoints/{job_id}"


def _folder(job_id: str, name: str) -> str:
    return f"{_root(job_id)}/{name}"
