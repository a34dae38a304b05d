"""How long a job waits before it is tried again. Pure but for the dice."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015).

    ``base`` and ``cap`` are in seconds. Jobs that failed together, as when a disk was full, do not come back
    together.
    """

    base: float = 2.0
    cap: float = 300.0

    def most(self, attempts: int) -> float:
        """The longest wait after so many attempts."""
        return min(self.cap, self.base * 2.0 ** min(attempts - 1, 64))

    def delay(self, attempts: int) -> float:
        """Seconds to wait after so many attempts: any time from 0 to ``most``."""
        return random.uniform(0.0, self.most(attempts))
