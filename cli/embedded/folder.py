"""The data folder: one supervisor at a time, and a record of what it runs for the one that comes after it.

The record names each process by its id *and* its start time, so that a process that was given the same id
later is left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from shared.errors import ConfigurationError

#: bytes of a log from which a new one is begun
_LONGEST_LOG = 16 << 20


class DataFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        self._record = self.run / "processes.json"
        self._server = self.run / "server.json"
        self._lock = FileLock(path / "qanvas.lock", thread_local=False)

    def acquire(self) -> None:
        """Own the folder. Raises ConfigurationError when another supervisor does, or it cannot be written."""
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigurationError(self._taken()) from None
        except OSError as error:
            raise ConfigurationError(
                f"cannot write to the data folder {self.path}: {error.strerror}; name another with --data"
            ) from None
        self._end_leftovers()
        self.log("").parent.mkdir(exist_ok=True)

    def release(self) -> None:
        self._server.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)
        self._lock.release()

    def log(self, name: str) -> Path:
        """Where a child's output goes; a long log of earlier runs is put aside as ``.1``."""
        path = self.path / "logs" / f"{name}.log"
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > _LONGEST_LOG:
                path.replace(path.with_suffix(".log.1"))
        return path

    def record(self, pids: list[int]) -> None:
        """Remember the processes of now for whoever finds them after a crash."""
        found = []
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append({"pid": pid, "started": psutil.Process(pid).create_time()})
        _write(self._record, found)

    def announce(self, url: str) -> None:
        """Tell the client commands on this machine where the server listens."""
        _write(self._server, {"url": url, "pid": os.getpid()})

    def server_url(self) -> str | None:
        """Where the server on this folder listens, None when none runs."""
        found = _read(self._server) or {}
        return str(found["url"]) if psutil.pid_exists(found.get("pid", 0) or -1) else None

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
        for row in _read(self._record) or []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(row["pid"])
                if process.create_time() == row["started"]:
                    leftovers += [process, *process.children(recursive=True)]
        for process in leftovers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(leftovers, timeout=5)


def _write(path: Path, value: object) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.replace(path)


def _read(path: Path) -> Any:
    # a file half written when the power went out says nothing
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return None
