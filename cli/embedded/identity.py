"""Which process an id means: ids are given again, and another process may have one by now."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import psutil

_PROC = Path("/proc")


def identity(pid: int) -> str | None:
    """What no other process with this id ever has; None where there is no such process.

    On Linux the start in ticks since boot, and the boot's id: a time of day would change with the clock."""
    if sys.platform != "linux":
        with contextlib.suppress(psutil.NoSuchProcess):
            return str(psutil.Process(pid).create_time())
        return None
    try:
        words = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    with contextlib.suppress(FileNotFoundError):  # in some sandboxes
        return f"{words[19]} {(_PROC / 'sys/kernel/random/boot_id').read_text().strip()}"
    return words[19]
