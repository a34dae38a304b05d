"""Waiting for news of jobs: one subscription for each process, however many wait.

Events say when to look. What they do not say (Redis was away, or was flushed) one question to the database
finds, for all jobs that are watched: which of them have ended.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from shared.chunks import in_chunks
from shared.errors import Unavailable
from shared.messaging.events import WAKE
from shared.messaging.subscriber import Subscriber

log = logging.getLogger(__name__)

#: seconds between two questions to the database while news come by themselves, and while they do not
_ASK_EVERY, _ASK_EVERY_AWAY = 5.0, 1.0


class Watch:
    """One watcher's bell. Whatever rang it since the last ``wait`` counts, also before the first."""

    def __init__(self, *, ends_only: bool) -> None:
        self._ends_only = ends_only
        self._bell = threading.Event()
        self._look = True  # nobody has looked yet

    def ring(self, *, look: bool) -> None:
        """There is something new; ``look``: it may be the job's end."""
        if look:
            self._look = True
        if look or not self._ends_only:
            self._bell.set()

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; True when there may be something new."""
        rung = self._bell.wait(timeout)
        self._bell.clear()
        return rung

    def shall_look(self) -> bool:
        """Whether the job's row may be another than when this was last asked."""
        look, self._look = self._look, False
        return look


class JobWatcher:
    """Rings the bells of those who watch. Its threads start with the first watcher."""

    def __init__(self, redis_url: str, ended: Callable[[Collection[str]], Collection[str]]) -> None:
        """``ended`` asks the database which of these jobs have ended, or are gone; may raise Unavailable."""
        self._ended = ended
        self._watches: dict[str, set[Watch]] = {}
        self._lock = threading.Lock()
        self._listener = Subscriber(redis_url, WAKE, self._heard, self._ring_all)
        self._asker: threading.Thread | None = None
        self._hurry = threading.Event()
        self._closed = False

    @contextmanager
    def watch(self, job_id: str, *, ends_only: bool = False) -> Iterator[Watch]:
        """Listen for a job: look at it inside the block, then ``wait``; nothing in between is missed."""
        watch = Watch(ends_only=ends_only)
        with self._lock:
            self._watches.setdefault(job_id, set()).add(watch)
            if self._asker is None:
                self._asker = threading.Thread(target=self._ask_forever, name="follower", daemon=True)
                self._asker.start()
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
        self._closed = True
        self._listener.close()
        self._ring_all()

    def _heard(self, message: bytes) -> None:
        job_id, _, done = message.decode().partition(" ")
        self._ring(job_id, look=bool(done))

    def _ring(self, job_id: str, *, look: bool) -> None:
        with self._lock:
            watching = list(self._watches.get(job_id, ()))
        for watch in watching:
            watch.ring(look=look)

    def _ring_all(self, connected: bool = False) -> None:
        """What was said before the subscription held is there to be read; what is missed is asked for."""
        self._hurry.set()
        if connected or self._closed:
            with self._lock:
                watches = [watch for watching in self._watches.values() for watch in watching]
            for watch in watches:
                watch.ring(look=True)

    def _ask_forever(self) -> None:
        while not self._closed:
            self._hurry.wait(_ASK_EVERY if self._listener.connected else _ASK_EVERY_AWAY)
            self._hurry.clear()
            with self._lock:
                watched = list(self._watches)
            try:
                for some in in_chunks(watched):
                    for job_id in self._ended(some):
                        self._ring(job_id, look=True)
            except Unavailable as error:
                log.warning("not known which jobs have ended: %s", error)
            except Exception:
                log.exception("not known which jobs have ended")
