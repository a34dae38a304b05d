"""Whether a worker still does what it should: one whose jobs all fail takes itself out.

A job that fails with ``internal`` may have met a fault of its own, and so may all jobs of one model. Where
jobs of several models fail so, one after the other, and none succeeds, it is the worker: its libraries, its
memory, its disks. It would turn the whole queue into failed jobs.
"""

from __future__ import annotations

import threading

from shared.jobs.entities import Ending, Failed, Succeeded


class FailureStreak:
    """Hears how jobs end; any thread."""

    def __init__(self, most: int) -> None:
        """``most``: kinds of jobs that may fail in a row; 0: any number."""
        self._most = most
        self._lock = threading.Lock()
        self._failed: set[str] = set()

    def note(self, kind: str, ending: Ending) -> str | None:
        """An attempt of a job of this kind has ended so. Returns why the worker is unfit, if it is."""
        with self._lock:
            match ending:
                case Succeeded():
                    self._failed.clear()
                case Failed(type="internal", retryable=False):
                    self._failed.add(kind)
            kinds = len(self._failed)
        if not 0 < self._most <= kinds:
            return None
        return (
            f"took itself out: jobs of {kinds} kinds failed with `internal` in a row, and none "
            "succeeded; look into its log, and start it again"
        )
