"""Exit statuses of our processes that mean something to whoever started them."""

from __future__ import annotations

from typing import Final

#: a worker that cannot go on in this process, as its device failed or a thread hangs: start it again. The
#: number is EX_TEMPFAIL of sysexits.h
START_AGAIN: Final = 75
