"""How long jobs of each queue have lately held a slot: what estimates of waiting times rest on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: what the latest job counts for in the mean: half of it is younger than three jobs
_LATEST = 0.2


class Pace:
    """A moving mean for each queue. Any thread."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def measured(self, queue: str) -> Iterator[None]:
        """A job of the queue holds a slot inside, from its claim until the next could take its place."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            with self._lock:
                mean = self._means.get(queue, seconds)
                self._means[queue] = mean + _LATEST * (seconds - mean)

    @property
    def means(self) -> dict[str, float]:
        """Seconds by queue; a queue of which no job has run yet is left out."""
        with self._lock:
            return {queue: round(seconds, 4) for queue, seconds in self._means.items()}
