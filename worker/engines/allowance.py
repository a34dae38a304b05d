"""A part of the time that passes, to be spent on what is nice to have."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Allowance:
    """``share`` of the seconds that pass; ``saved`` of them may be spent at once, after a rest. One may spend
    more than there is: then nothing is left until that is made up for."""

    def __init__(self, share: float, saved: float) -> None:
        self._share = share
        self._most = self._left = saved
        self._looked = time.monotonic()

    @property
    def is_left(self) -> bool:
        now = time.monotonic()
        self._left = min(self._most, self._left + self._share * (now - self._looked))
        self._looked = now
        return self._left > 0

    @contextmanager
    def spend(self) -> Iterator[None]:
        """What the block takes is spent."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._left -= time.monotonic() - began
