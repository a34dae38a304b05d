"""When a process that died is started again, and what is said of faults that stay for a while."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

log = logging.getLogger(__name__)

#: seconds a process must live for its earlier deaths to be forgotten
_STEADY = 30.0
_LONGEST_WAIT = 10.0


@dataclass
class Restarts:
    """At once after the first death, then after a wait that doubles up to ten seconds; for ever.

    All times in seconds by the monotonic clock."""

    deaths: int = 0
    begun: float = 0.0
    #: not to be started before
    due: float = 0.0

    def begin(self, now: float) -> None:
        """Call before each start, also one that may fail."""
        self.begun = now

    def died(self, now: float) -> float:
        """Note a death, or a start that failed; returns the seconds to wait."""
        self.deaths = 1 if now - self.begun > _STEADY else self.deaths + 1
        # no power of a number that grows for ever
        wait = 0.0 if self.deaths == 1 else min(0.5 * 2 ** min(self.deaths, 8), _LONGEST_WAIT)
        self.due = now + wait
        return wait


class Complaints:
    """Survives what goes wrong again and again, and says it once."""

    def __init__(self) -> None:
        self._open: dict[str, str] = {}

    @contextmanager
    def survive(self, what: str) -> Iterator[None]:
        """Log the first of several equal errors in the block, and that they are over; raise none of them."""
        try:
            yield
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            if self._open.get(what) != said:
                self._open[what] = said
                # an OSError is the machine's trouble and says all there is; anything else may be a bug
                unknown = not isinstance(error, OSError)
                log.warning("cannot %s, trying again: %s", what, said, exc_info=unknown)
        else:
            if self._open.pop(what, None) is not None:
                log.warning("can %s again", what)
