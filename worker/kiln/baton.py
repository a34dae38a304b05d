"""Threads that run by turns: exactly one holds the baton at any time.

The engine thread gives the baton to a job's thread with ``give`` and sleeps until the job hands it back,
because it has reached a boundary or because it has ended. So plain blocking code takes turns, and never
do two threads compute.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class JobThread:
    """A thread that runs one body at a time; between bodies it waits to be used again.

    Used threads are kept, because a new one costs time and makes its own pool of helper threads in the
    numeric libraries."""

    def __init__(self, number: int) -> None:
        self._go = _closed_gate()
        self._back = _closed_gate()
        self._body: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._serve, name=f"job-{number}", daemon=True)
        self._thread.start()

    @property
    def native_id(self) -> int:
        """As ``threading.get_native_id`` gives it on that thread."""
        return self._thread.native_id or 0

    def take(self, body: Callable[[], None]) -> None:
        """Make this body ready to run; it runs once the baton is given."""
        self._body = body

    def give(self) -> bool:
        """Let the body run until it hands back. True when it has ended. Engine thread only."""
        self._go.release()
        self._back.acquire()
        return self._body is None

    def hand_back(self) -> None:
        """Let the others run, and return when the baton comes again. The body's own thread only."""
        self._back.release()
        self._go.acquire()

    def _serve(self) -> None:
        while True:
            self._go.acquire()
            body = self._body
            if body is None:
                return
            body()
            self._body = body = None  # what it computed with must not outlive it
            self._back.release()

    def end(self) -> None:
        """Let an idle thread go."""
        self._go.release()


class JobThreads:
    """Idle job threads, used again last in, first out. Engine thread only."""

    def __init__(self) -> None:
        self._idle: deque[JobThread] = deque()
        self._made = 0

    def take(self, body: Callable[[], None]) -> JobThread:
        """A thread that is ready to run ``body``, which must raise nothing."""
        if self._idle:
            thread = self._idle.pop()
        else:
            self._made += 1
            thread = JobThread(self._made)
        thread.take(body)
        return thread

    def keep(self, thread: JobThread) -> None:
        """Keep a thread whose body has ended."""
        self._idle.append(thread)

    def end(self) -> None:
        """Let the idle ones go."""
        while self._idle:
            self._idle.pop().end()


def _closed_gate() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate
