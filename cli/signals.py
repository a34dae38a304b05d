"""SIGINT, SIGTERM and SIGHUP as one exception in the main thread."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody asked this process to end. Not an Exception: no library may swallow it."""


class StopRequest:
    """``asked`` holds from the first signal on; only that one raises: cleaning up is left in peace."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            raise Stopped


@contextmanager
def stopping() -> Iterator[StopRequest]:
    """Inside the block the signals raise Stopped, once."""
    request = StopRequest()
    before = {
        number: signal.signal(number, request)
        for number in _SIGNALS
        # `nohup` says that a closed terminal is no reason to end
        if not (number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN)
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
