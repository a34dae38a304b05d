"""How long, and how often, a worker tries again what the storage or the database did not take."""

from __future__ import annotations

import time
from collections.abc import Iterator

#: seconds for which a result is kept and offered again
TRY_FOR = 120.0
#: seconds between two tries at first, and at most
_FIRST, _LONGEST = 0.5, 5.0


def waits() -> Iterator[float]:
    """Seconds to wait after each try that failed, growing, for as long as it is worth trying."""
    deadline, wait = time.monotonic() + TRY_FOR, _FIRST
    yield wait
    while time.monotonic() < deadline:
        wait = min(2 * wait, _LONGEST)
        yield wait
