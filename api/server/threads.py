"""Threads that start when there is work, and end when there has been none for a while."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

log = logging.getLogger(__name__)

#: seconds without work after which a thread ends
_IDLE_SECONDS = 60.0


class Threads:
    """Runs tasks in the order in which they come, on at most ``most`` threads."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._count = self._idle = 0

    def run(self, task: Callable[[], None]) -> None:
        """Run it as soon as a thread is free; does not wait for it."""
        self._tasks.put(task)
        with self._lock:
            if self._count >= self._most or self._tasks.qsize() <= self._idle:
                return
            self._count += 1
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError:  # the system allows no more: those that there are do it, or the next that starts
            with self._lock:
                self._count -= 1
            log.warning("the system starts no more than %d threads for %r", self._count, self._name)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                task = self._tasks.get(timeout=_IDLE_SECONDS)
            except Empty:
                task = None
            with self._lock:
                self._idle -= 1
                if task is None and self._tasks.empty():
                    self._count -= 1
                    return
            if task is not None:
                task()
