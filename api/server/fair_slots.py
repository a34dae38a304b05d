"""Places of which nobody can take all, so that there is one left for who comes next."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class FairSlots:
    """A semaphore that counts by holder: a holder gets another place while it has fewer than are free.

    So one holder alone can take half of the places, two can take a third each, and *n* together leave one of
    *n* + 1 parts to a holder that has none yet. No number has to be configured for it.
    """

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many places are taken."""
        return self._count - self._free

    def take(self, holder: str) -> bool:
        """Whether the holder got another place; if so, it must ``give_back`` it."""
        with self._lock:
            held = self._held.get(holder, 0)
            if held >= self._free:
                return False
            self._held[holder] = held + 1
            self._free -= 1
            return True

    def give_back(self, holder: str) -> None:
        """A place that ``take`` gave."""
        with self._lock:
            self._free += 1
            if self._held[holder] == 1:
                del self._held[holder]
            else:
                self._held[holder] -= 1

    @contextmanager
    def hold(self, holder: str) -> Iterator[bool]:
        """A place for as long as the block runs; False where the holder gets none."""
        taken = self.take(holder)
        try:
            yield taken
        finally:
            if taken:
                self.give_back(holder)
