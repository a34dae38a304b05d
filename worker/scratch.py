"""Where attempts write what is not kept: one folder for each worker, one below it for each attempt.

The folder of a worker that died also tells which of its jobs were computing then. One of those may be why
it died; the others only waited beside them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_NEW, _BEGUN, _COMPUTED = ".new-", "begun-", "computed-"


class Scratch:
    """This worker's folder. A lock in it says that its worker lives, so that others leave it alone."""

    def __init__(self, root: Path, worker_id: str) -> None:
        """Make the folder, and remove those of workers on this machine that died."""
        self._folder = root / worker_id
        new = root / f"{_NEW}{worker_id}"
        new.mkdir(parents=True)
        self._lock = _try_lock(new)
        new.rename(self._folder)  # locked already: nobody can take it for a dead worker's
        #: workers found dead, and the ids of the jobs that each was computing
        self.dead: dict[str, frozenset[str]] = {}
        for other in root.iterdir():
            if other == self._folder or other.name.startswith(_NEW):
                continue
            if (lock := _try_lock(other)) is not None:
                # what only had to be stored is not what killed it, where something was computed beside
                self.dead[other.name] = _marked(other, _BEGUN) or _marked(other, _COMPUTED)
                shutil.rmtree(other, ignore_errors=True)
                os.close(lock)

    def of(self, job_id: str, attempt: int) -> Path:
        """The folder of an attempt. It is made when somebody writes there."""
        return self._folder / f"{job_id}-{attempt}"

    def begin(self, job_id: str) -> None:
        """Note that this job computes from now on."""
        (self._folder / f"{_BEGUN}{job_id}").touch()

    def computed(self, job_id: str) -> None:
        """Note that this job computes no more, and is to be stored."""
        with suppress(FileNotFoundError):  # it ended before it began
            (self._folder / f"{_BEGUN}{job_id}").rename(self._folder / f"{_COMPUTED}{job_id}")

    def suspect_only(self, job_ids: Collection[str]) -> None:
        """Remove the notes of all other jobs: this worker is about to end, and they are not why."""
        for mark in (_BEGUN, _COMPUTED):
            for job_id in _marked(self._folder, mark) - set(job_ids):
                (self._folder / f"{mark}{job_id}").unlink(missing_ok=True)

    def remove(self, job_id: str, attempt: int) -> None:
        """Remove what an attempt wrote, and the notes of how far it was."""
        for mark in (_BEGUN, _COMPUTED):
            (self._folder / f"{mark}{job_id}").unlink(missing_ok=True)
        folder = self.of(job_id, attempt)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove this worker's folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def _marked(folder: Path, mark: str) -> frozenset[str]:
    return frozenset(path.name.removeprefix(mark) for path in folder.glob(f"{mark}*"))


def _try_lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock until it is closed; None when another process holds it."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    except OSError:
        return None  # it is just being removed, or is no folder of ours
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
