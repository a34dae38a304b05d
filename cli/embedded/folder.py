"""The data folder: one supervisor at a time, and a record of what it runs for the one that comes after it.

The record names each process by its id *and* its identity, so that a process that was given the same id later
is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from cli.embedded.identity import identity
from shared.errors import ConfigurationError

#: bytes of a log from which a new one is begun
_LONGEST_LOG = 16 << 20
#: what a file system without locks answers
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


class DataFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        self._record = self.run / "processes.json"
        self._server = self.run / "server.json"
        self._lock = FileLock(path / "qanvas.lock", thread_local=False, fallback_to_soft=False)
        #: what shall be written, until it is
        self._unwritten: dict[Path, object] = {}

    def acquire(self) -> None:
        """Own the folder. Raises ConfigurationError when another supervisor does, or it cannot be written."""
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._end_leftovers()
            self.log("").parent.mkdir(exist_ok=True)
        except Timeout:
            raise ConfigurationError(self._taken()) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise ConfigurationError(
                    f"the file system of the data folder {self.path} has no locks, without which two servers "
                    "could use it at once; name a folder on a local disk with --data"
                ) from None
            raise ConfigurationError(
                f"cannot write to the data folder {self.path}: {error.strerror}; name another with --data"
            ) from None

    def release(self) -> None:
        """Let another supervisor have the folder. What cannot be removed any more stays, and harms nobody."""
        for path in (self._server, self._record):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._lock.release()

    def log(self, name: str) -> Path:
        """Where a child's output goes; a long log of earlier runs is put aside as ``.1``."""
        path = self.path / "logs" / f"{name}.log"
        with contextlib.suppress(OSError):
            if path.stat().st_size > _LONGEST_LOG:
                path.replace(path.with_suffix(".log.1"))
        return path

    def record(self, pids: Sequence[int]) -> None:
        """Remember the processes of now for whoever finds them after a crash. Raises OSError as ``write``."""
        found = [{"pid": pid, "identity": known} for pid in pids if (known := identity(pid)) is not None]
        self._unwritten[self._record] = found
        self.write()

    def announce(self, url: str) -> None:
        """Tell the client commands on this machine where the server listens. Raises OSError as ``write``."""
        self._unwritten[self._server] = {"url": url, "pid": os.getpid(), "identity": identity(os.getpid())}
        self.write()

    def write(self) -> None:
        """Write what is not written yet. Raises OSError where that fails; the next call tries again."""
        for path, value in list(self._unwritten.items()):
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            new.write_text(json.dumps(value))
            new.replace(path)
            del self._unwritten[path]

    def server_url(self) -> str | None:
        """Where the server on this folder listens, None when none runs."""
        for row in _rows([_read(self._server)]):
            if identity(row["pid"]) == row["identity"]:
                return str(row.get("url"))
        return None

    def _taken(self) -> str:
        where = self.server_url()
        at = f" at {where}" if where else ""
        return (
            f"another `qanvas up` runs on {self.path}{at}; use that one, stop it, "
            "or name another folder with --data"
        )

    def _end_leftovers(self) -> None:
        """Kill what a supervisor that was killed left behind, so that two never share one folder."""
        self._server.unlink(missing_ok=True)
        leftovers = []
        for row in _rows(_read(self._record)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(row["pid"])
                family = [process, *process.children(recursive=True)]
                if identity(row["pid"]) == row["identity"]:  # asked last: psutil looks at the id's start, too
                    leftovers += family
        for process in leftovers:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.kill()
        psutil.wait_procs(leftovers, timeout=5)


def _rows(found: object) -> Iterator[dict[str, Any]]:
    """The processes that a file names, as far as it is ours and whole."""
    for row in found if isinstance(found, list) else ():
        if isinstance(row, dict) and row.get("identity") and type(pid := row.get("pid")) is int and pid > 1:
            yield row


def _read(path: Path) -> Any:
    # a file half written when the power went out says nothing
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return None
