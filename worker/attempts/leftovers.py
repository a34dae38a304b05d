"""What is to be removed from the storage, kept in mind while the storage is away."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from shared.errors import Unavailable
from worker.attempts.checkpoints import Checkpoints
from worker.attempts.results import Results

log = logging.getLogger(__name__)

#: removals that are kept in mind; retention finds what goes beyond
_MOST = 10_000


class Leftovers:
    """Removes what no row will ever name: at once where the storage answers, else when it does again."""

    def __init__(self, results: Results, checkpoints: Checkpoints) -> None:
        self._results = results
        self._checkpoints = checkpoints
        self._left: deque[Callable[[], None]] = deque(maxlen=_MOST)
        self._lock = threading.Lock()

    def of_attempt(self, job_id: str, attempt: int) -> None:
        """Remove the outputs and the model of an attempt that is over and came to nothing."""
        self._remove(partial(self._results.take_back, job_id, attempt))

    def of_earlier_attempts(self, job_id: str, attempt: int) -> None:
        """The same for all attempts before this one, should whoever was to do so have died before."""
        for earlier in range(1, attempt):
            self.of_attempt(job_id, earlier)

    def of_checkpoints(self, job_id: str) -> None:
        """Remove the checkpoints of a job that has ended."""
        self._remove(partial(self._checkpoints.forget, job_id))

    def again(self) -> None:
        """Try what the storage did not do before."""
        with self._lock:
            left, self._left = self._left, deque(maxlen=_MOST)
        for removal in left:
            self._remove(removal)

    def _remove(self, removal: Callable[[], None]) -> None:
        try:
            removal()
        except Unavailable as error:
            log.warning("a leftover stays until the storage answers: %s", error)
            with self._lock:
                self._left.append(removal)
