"""How many requests are worked on, so that there is a bound, and urgent ones are always among them."""

from __future__ import annotations

import threading


class Load:
    """Counts the requests that are being answered, or are about to be; urgent ones by themselves."""

    def __init__(self, most: int, most_urgent: int) -> None:
        self._most = {False: most, True: most_urgent}
        self._now = {False: 0, True: 0}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._now[False] + self._now[True]

    def begin(self, *, urgent: bool) -> bool:
        """Whether there is room for one more; if so, it must ``end``."""
        with self._lock:
            if self._now[urgent] >= self._most[urgent]:
                return False
            self._now[urgent] += 1
            return True

    def end(self, *, urgent: bool) -> None:
        """One that ``begin`` let in has been answered."""
        with self._lock:
            self._now[urgent] -= 1
