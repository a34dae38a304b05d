"""Threads that start when there is work, and end when there has been none for a while."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

#: seconds without work after which a thread ends
_IDLE_SECONDS = 60.0

Task = Callable[[], None]


class _Idle:
    """A thread that waits for its next task; ``given`` is let go of when there is one."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.given = threading.Lock()
        self.given.acquire()


class Threads:
    """Runs tasks in the order in which they come, on at most ``most`` threads.

    A task may ``run`` another one as the last thing it does, and the same thread goes on with that.

    Each idle thread waits for itself, and the one that was idle last is woken: a queue that all wait at wakes
    another one in vain for each task, and each that wakes needs Python's lock."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._lock = threading.Lock()
        self._count = 0
        self._idle: list[_Idle] = []
        self._tasks: deque[Task] = deque()  # for which there was no thread
        self._here = threading.local()

    def run(self, task: Task) -> None:
        """Run it as soon as a thread is free; does not wait for it. It must raise nothing."""
        with self._lock:
            if hasattr(self._here, "works"):
                self._tasks.append(task)
                return
            if self._idle:
                idle = self._idle.pop()
                idle.task = task
                idle.given.release()
                return
            if self._count >= self._most:
                self._tasks.append(task)
                return
            self._count += 1
        try:
            threading.Thread(target=self._work, args=(task,), name=self._name, daemon=True).start()
        except RuntimeError:  # the system allows no more: those that there are do it, or the next that starts
            with self._lock:
                self._count -= 1
                self._tasks.append(task)
            log.warning("the system starts no more than %d threads for %r", self._count, self._name)

    def _work(self, task: Task | None) -> None:
        me = _Idle()
        self._here.works = True
        while task is not None:
            task()
            task = None  # an idle thread keeps nothing of its last client
            task = self._next(me)

    def _next(self, me: _Idle) -> Task | None:
        with self._lock:
            if self._tasks:
                return self._tasks.popleft()
            self._idle.append(me)
        if not me.given.acquire(timeout=_IDLE_SECONDS):
            with self._lock:
                if me in self._idle:
                    self._idle.remove(me)
                    self._count -= 1
                    return None
            me.given.acquire()
        task, me.task = me.task, None
        return task
