"""Where attempts write what is not kept: one folder for each worker, one below it for each attempt.

The folder of a worker that died also tells which of its jobs were computing then. One of those may be why
it died; the others only waited beside them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

_NEW, _BEGUN = ".new-", "begun-"


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
                self.dead[other.name] = frozenset(
                    mark.name.removeprefix(_BEGUN) for mark in other.glob(f"{_BEGUN}*")
                )
                shutil.rmtree(other, ignore_errors=True)
                os.close(lock)

    def of(self, job_id: str, attempt: int) -> Path:
        """The folder of an attempt. It is made when somebody writes there."""
        return self._folder / f"{job_id}-{attempt}"

    def begin(self, job_id: str) -> None:
        """Note that this job computes from now on."""
        (self._folder / f"{_BEGUN}{job_id}").touch()

    def remove(self, job_id: str, attempt: int) -> None:
        """Remove what an attempt wrote, and the note that it computes."""
        (self._folder / f"{_BEGUN}{job_id}").unlink(missing_ok=True)
        folder = self.of(job_id, attempt)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove this worker's folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


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
