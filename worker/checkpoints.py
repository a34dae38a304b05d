"""The latest checkpoint of a job, in the storage: any worker can go on from it.

Each checkpoint is a folder of its own; a small file names the one that holds. So a checkpoint is there
whole or not at all, also when its writer dies on the way.
"""

from __future__ import annotations

import logging
import uuid
from pathlib import Path, PurePosixPath

from shared.errors import NotFound
from shared.storage.base import Storage

log = logging.getLogger(__name__)


class Checkpoints:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def save(self, job_id: str, folder: Path) -> None:
        """Store the folder, and let it replace the job's last checkpoint. Raises Unavailable."""
        old = self._latest(job_id)
        new = uuid.uuid4().hex
        upload(self._storage, folder, f"{_root(job_id)}/{new}")
        self._storage.write(_pointer(job_id), new.encode())
        if old is not None:
            self._storage.delete_prefix(f"{_root(job_id)}/{old}")

    def fetch(self, job_id: str, into: Path) -> Path | None:
        """A local folder with the latest checkpoint, for reading only; None where there is none."""
        if (name := self._latest(job_id)) is None:
            return None
        try:
            return self._storage.fetch_folder(f"{_root(job_id)}/{name}", into)
        except NotFound:
            log.warning("the checkpoint of %s is gone; it starts anew", job_id)
            return None

    def forget(self, job_id: str) -> None:
        """Remove all of the job's checkpoints."""
        self._storage.delete_prefix(_root(job_id))

    def job_ids(self) -> set[str]:
        """The jobs that have any."""
        return {PurePosixPath(key).parts[1] for key in self._storage.list("checkpoints")}

    def _latest(self, job_id: str) -> str | None:
        try:
            with self._storage.open(_pointer(job_id)) as file:
                return file.read().decode()
        except NotFound:
            return None


def upload(storage: Storage, folder: Path, prefix: str) -> None:
    """Store every file of a folder below ``prefix``. Raises Unavailable."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                storage.write(f"{prefix}/{path.relative_to(folder).as_posix()}", file)


def _root(job_id: str) -> str:
    return f"checkpoints/{job_id}"


def _pointer(job_id: str) -> str:
    return f"{_root(job_id)}/latest"
