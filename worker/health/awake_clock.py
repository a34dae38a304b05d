"""A clock that goes on while this process, or the whole machine, is stopped."""

from __future__ import annotations

import sys
import time

# Linux stops its monotonic clock while the machine sleeps, macOS does so under another name
_CLOCK = time.CLOCK_BOOTTIME if sys.platform == "linux" else time.CLOCK_MONOTONIC


def awake_seconds() -> float:
    """Seconds since some moment in the past, those included for which nothing ran."""
    return time.clock_gettime(_CLOCK)
