"""Where attempts write what is not kept: one folder for each worker, one below it for each attempt.

The folder of a worker that died also tells which attempts it was computing or storing then. One of those that
it computed may be why it died, the others only waited beside them; and what it was storing may lie in the
storage though no row will ever name it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import Unavailable

log = logging.getLogger(__name__)

_NEW, _BEGUN, _COMPUTED, _SPARED = ".new-", "begun-", "computed-", "spared-"
#: the file that ``check_writable`` writes, and its bytes
_PROBE, _PROBE_BYTES = "room", 1 << 20

#: the id of a job, and which of its attempts
Attempt = tuple[str, int]


class Scratch:
    """This worker's folder. A lock in it says that its worker lives, so that others leave it alone."""

    def __init__(self, root: Path, worker_id: str) -> None:
        """Make the folder, and remove those of workers on this machine that died. Raises Unavailable where it
        cannot be made."""
        self._folder = root / worker_id
        new = root / f"{_NEW}{worker_id}"
        with _translated(root):
            new.mkdir(parents=True)
            self._lock = _try_lock(new)
            new.rename(self._folder)  # locked already: nobody can take it for a dead worker's
        #: workers found dead, and the ids of the jobs that each was computing
        self.dead: dict[str, frozenset[str]] = {}
        #: all attempts that they had begun
        self.left: set[Attempt] = set()
        for other in root.iterdir():
            if other == self._folder or other.name.startswith(_NEW):
                continue
            if (lock := _try_lock(other)) is not None:
                begun, computed = _marked(other, _BEGUN), _marked(other, _COMPUTED)
                # what only had to be stored is not what killed it, where something was computed beside
                self.dead[other.name] = frozenset(job_id for job_id, _ in begun or computed)
                self.left |= begun | computed | _marked(other, _SPARED)
                shutil.rmtree(other, ignore_errors=True)
                os.close(lock)

    def of(self, job_id: str, attempt: int) -> Path:
        """The folder of an attempt. It is made when somebody writes there."""
        return self._folder / f"{job_id}-{attempt}"

    def begin(self, job_id: str, attempt: int) -> None:
        """Note that this attempt computes from now on. Where that cannot be written, the job goes on all the
        same: this is called on the engine thread, which every job needs."""
        try:
            self._mark(_BEGUN, job_id, attempt).touch()
        except OSError as error:
            log.warning("%s: not noted as begun: %s", job_id, error)

    def computed(self, job_id: str, attempt: int) -> None:
        """Note that this attempt computes no more, and is to be stored."""
        with suppress(OSError):  # it ended before it began, or the disk is full: it stays noted as begun
            self._mark(_BEGUN, job_id, attempt).rename(self._mark(_COMPUTED, job_id, attempt))

    def suspect_only(self, job_ids: Collection[str]) -> None:
        """Note that this worker is about to end, and that the other jobs are not why."""
        for mark in (_BEGUN, _COMPUTED):
            for job_id, attempt in _marked(self._folder, mark):
                if job_id not in job_ids:
                    with suppress(OSError):
                        self._mark(mark, job_id, attempt).rename(self._mark(_SPARED, job_id, attempt))

    def remove(self, job_id: str, attempt: int) -> None:
        """Remove what an attempt wrote, and the notes of how far it was."""
        for mark in (_BEGUN, _COMPUTED):
            with suppress(OSError):  # a read-only disk keeps them until the worker ends
                self._mark(mark, job_id, attempt).unlink(missing_ok=True)
        self.clear(job_id, attempt)

    def clear(self, job_id: str, attempt: int) -> None:
        """Remove what an attempt wrote; it may begin to write anew."""
        folder = self.of(job_id, attempt)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)

    def check_writable(self) -> None:
        """Raises Unavailable where nothing can be written here."""
        path = self._folder / _PROBE
        with _translated(self._folder):
            try:
                path.write_bytes(bytes(_PROBE_BYTES))
            finally:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove this worker's folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def _mark(self, mark: str, job_id: str, attempt: int) -> Path:
        return self._folder / f"{mark}{job_id}-{attempt}"


def _marked(folder: Path, mark: str) -> frozenset[Attempt]:
    found = (path.name.removeprefix(mark).rpartition("-") for path in folder.glob(f"{mark}*"))
    # before rows named checkpoints, the job alone was noted
    return frozenset((job_id or last, int(last) if job_id else 0) for job_id, _, last in found)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            "the scratch folder cannot be written",
            f"{path}: {error.strerror or error}; free some space there, mount it for writing, "
            "or set QANVAS_DATA to another place",
        ) from error


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
