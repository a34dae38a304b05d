"""What a job of every system but Qanvas does: note that it began, work, note that it ended.

A line of the log is written in one call, so that processes do not mix theirs and a killed one leaves none
half-written.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LOG = "work.log"
WORKER = "DRILL_WORKER"  #: the environment's name for the worker that a process belongs to


@dataclass(frozen=True, slots=True)
class Line:
    """``at``: seconds since 1970."""

    what: Literal["start", "end"]
    job: str
    worker: str
    at: float


def work(folder: str, job: str, seconds: float) -> None:
    _note(folder, "start", job)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.05)
    _note(folder, "end", job)


def read(folder: Path) -> list[Line]:
    """All lines so far, oldest first."""
    log = folder / LOG
    lines = (line.split() for line in (log.read_text() if log.exists() else "").splitlines())
    return [
        Line("start" if what == "start" else "end", job, worker, float(at)) for what, job, worker, at in lines
    ]


def _note(folder: str, what: str, job: str) -> None:
    line = f"{what} {job} {os.environ[WORKER]} {time.time()}\n".encode()
    log = os.open(Path(folder, LOG), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(log, line)
    finally:
        os.close(log)
