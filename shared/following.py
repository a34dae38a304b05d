"""Waiting for news of jobs: one subscription for each process, however many wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shared.events import WAKE
from shared.listening import Listener

#: seconds between two looks while Redis cannot wake anybody
_LOOK_EVERY = 1.0


class Watch:
    """One watcher's bell. Any event of the job since the last ``wait`` rings it, also one before the wait."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self.bell = threading.Event()

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; True when there may be something new."""
        rung = self.bell.wait(timeout if self._follower.connected else min(timeout, _LOOK_EVERY))
        self.bell.clear()
        return rung


class Follower:
    """One subscription for each process, however many watch. Its thread starts with the first watcher."""

    def __init__(self, redis_url: str) -> None:
        self._watches: dict[str, set[Watch]] = {}
        self._lock = threading.Lock()
        self._listener = Listener(redis_url, WAKE, self._ring, self._ring_all)

    @property
    def connected(self) -> bool:
        """Whether news come by themselves; else look once a second."""
        return self._listener.connected

    @contextmanager
    def watch(self, job_id: str) -> Iterator[Watch]:
        """Listen for a job: look at it inside the block, then ``wait``; nothing in between is missed."""
        watch = Watch(self)
        with self._lock:
            self._watches.setdefault(job_id, set()).add(watch)
        self._listener.start()
        try:
            yield watch
        finally:
            with self._lock:
                watching = self._watches[job_id]
                watching.discard(watch)
                if not watching:
                    del self._watches[job_id]

    def close(self) -> None:
        """Wake everybody and stop."""
        self._listener.close()
        self._ring_all()

    def _ring(self, job_id: bytes) -> None:
        with self._lock:
            watching = list(self._watches.get(job_id.decode(), ()))
        for watch in watching:
            watch.bell.set()

    def _ring_all(self, connected: bool = False) -> None:
        """What happened before the subscription held, or will be missed from now on, is there to be read."""
        with self._lock:
            watches = [watch for watching in self._watches.values() for watch in watching]
        for watch in watches:
            watch.bell.set()
