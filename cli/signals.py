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
        self._raised = False
        self._held = 0

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        self._raise()

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes inside the block raises at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self.asked:
                self._raise()

    def _raise(self) -> None:
        if not self._raised and not self._held:
            self._raised = True
            raise Stopped


#: of the ``stopping`` block that the main thread is in
_request: StopRequest | None = None


@contextmanager
def stopping() -> Iterator[StopRequest]:
    """Inside the block the signals raise Stopped, once."""
    global _request
    outer, request = _request, StopRequest()
    _request = request
    before = {
        number: signal.signal(number, request)
        for number in _SIGNALS
        # `nohup` says that a closed terminal is no reason to end
        if not (number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN)
    }
    try:
        yield request
    finally:
        _request = outer
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal come between a step and the note of it, as between starting a process and knowing its id:
    Stopped is raised at the end of the block. Without a ``stopping`` block around it, it does nothing."""
    if _request is None:
        yield
        return
    with _request.held():
        yield
