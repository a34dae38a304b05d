"""Values that many ask for and few look up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

#: seconds for which a list of live workers, the tenants' limits, or whether there are keys, is believed
FRESH = 1.0

Value = TypeVar("Value")


class TtlCache(Generic[Value]):
    """A value that is looked up at most once in ``seconds``, however many ask."""

    def __init__(self, look_up: Callable[[], Value], seconds: float = FRESH) -> None:
        self._look_up, self._seconds = look_up, seconds
        self._lock = threading.Lock()
        self._known: tuple[float, Value] | None = None

    def __call__(self) -> Value:
        known = self._known
        if known is None or known[0] < time.monotonic():
            with self._lock:
                known = self._known
                if known is None or known[0] < time.monotonic():
                    known = self._known = (time.monotonic() + self._seconds, self._look_up())
        return known[1]

    def forget(self) -> None:
        """Look it up when it is next asked for."""
        self._known = None
