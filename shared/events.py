"""What happens to a job while it runs, for those who watch: kept in a Redis stream, announced by a wake-up.

Events are a convenience. Everything that must not be lost is in the database: where Redis is away, events
are dropped and watchers look at the row once a second.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import redis

from shared.errors import Unavailable
from shared.redis import connect

EventType = Literal["status", "progress", "preview", "token", "output", "done"]

log = logging.getLogger(__name__)

_WAKE = b"qanvas:wake"
#: events kept for each job, and for how many seconds after the last
_KEEP, _KEEP_SECONDS = 5_000, 24 * 3600
#: events sent in one round trip; and waiting ones beyond which progress is dropped
_BATCH, _BACKLOG = 256, 20_000
_TIMEOUT = 5.0
#: seconds between two looks when Redis cannot wake anybody
_LOOK_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """``id`` grows within a job, so that a reader can go on where it stopped."""

    id: str
    type: EventType
    data: Mapping[str, Any]


class Events:
    """Publish and read events. One object for each process; its thread starts with the first publish."""

    def __init__(self, redis_url: str) -> None:
        self._redis = connect(redis_url, timeout=_TIMEOUT)
        self._outbox: queue.SimpleQueue[tuple[str, EventType, Mapping[str, Any], bytes | None] | None]
        self._outbox = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def publish(
        self, job_id: str, type: EventType, data: Mapping[str, Any], *, preview: bytes | None = None
    ) -> None:
        """Tell those who watch a job. Never blocks; dropped where Redis is away.

        ``preview`` are the bytes of a PNG, kept as the job's latest preview."""
        if type == "progress" and self._outbox.qsize() > _BACKLOG:
            return
        self._outbox.put((job_id, type, data, preview))
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._send_forever, name="events", daemon=True)
                    self._thread.start()

    def read(self, job_id: str, after: str = "0", *, limit: int = 1000) -> list[Event]:
        """Events of a job after that id, oldest first. Raises Unavailable."""
        with _answering():
            found = self._redis.xrange(_stream(job_id), min=f"({after}", count=limit)
        return [
            Event(event_id.decode(), fields[b"type"].decode(), json.loads(fields[b"data"]))
            for event_id, fields in found
        ]

    def latest_progress(self, job_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """The last progress of those jobs that have any; nothing where Redis is away."""
        if not job_ids:
            return {}
        try:
            found = self._redis.mget([_progress(job_id) for job_id in job_ids])
        except redis.RedisError:
            return {}
        return {job_id: json.loads(text) for job_id, text in zip(job_ids, found, strict=True) if text}

    def preview(self, job_id: str) -> bytes | None:
        """The latest preview as PNG, or None. Raises Unavailable."""
        with _answering():
            found = self._redis.get(_preview(job_id))
        return found if isinstance(found, bytes) else None

    def forget(self, job_id: str) -> None:
        """Remove what is kept of a job that is deleted; it would go by itself later."""
        with _answering():
            self._redis.delete(_stream(job_id), _progress(job_id), _preview(job_id))

    def close(self) -> None:
        """Send what is pending, for as long as Redis answers, and stop."""
        if self._thread is not None:
            self._outbox.put(None)
            self._thread.join(timeout=_TIMEOUT)
        self._redis.close()

    def _send_forever(self) -> None:
        open_ = True
        while open_:
            batch = [self._outbox.get()]
            while len(batch) < _BATCH and not self._outbox.empty():
                batch.append(self._outbox.get())
            open_ = None not in batch
            try:
                self._send([item for item in batch if item is not None])
            except redis.RedisError as error:
                log.warning("%d events dropped, Redis does not answer: %s", len(batch), error)

    def _send(self, batch: Sequence[tuple[str, EventType, Mapping[str, Any], bytes | None]]) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id, type_, data, preview in batch:
                text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
                if preview is not None:
                    pipe.set(_preview(job_id), preview, ex=_KEEP_SECONDS)
                if type_ == "progress":
                    pipe.set(_progress(job_id), text, ex=_KEEP_SECONDS)
                fields = {"type": type_, "data": text}
                pipe.xadd(_stream(job_id), fields, maxlen=_KEEP, approximate=True)
            for job_id in {item[0] for item in batch}:
                pipe.expire(_stream(job_id), _KEEP_SECONDS)
                pipe.publish(_WAKE, job_id)
            pipe.execute()


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
        self._url = redis_url
        self._watches: dict[str, set[Watch]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.connected = False

    @contextmanager
    def watch(self, job_id: str) -> Iterator[Watch]:
        """Listen for a job: look at it inside the block, then ``wait``; nothing in between is missed."""
        watch = Watch(self)
        with self._lock:
            self._watches.setdefault(job_id, set()).add(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen_forever, name="follower", daemon=True)
                self._thread.start()
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
        self._ring_all()

    def _ring_all(self) -> None:
        with self._lock:
            watches = [watch for watching in self._watches.values() for watch in watching]
        for watch in watches:
            watch.bell.set()

    def _listen_forever(self) -> None:
        while not self._closed:
            try:
                self._listen()
            except redis.RedisError as error:
                log.warning("not following events, Redis does not answer: %s", error)
                self.connected = False
                self._ring_all()
                time.sleep(_LOOK_EVERY)

    def _listen(self) -> None:
        with connect(self._url, timeout=_TIMEOUT) as client, client.pubsub() as pubsub:
            pubsub.subscribe(_WAKE)
            while not self._closed:
                message = pubsub.get_message(timeout=_LOOK_EVERY)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self.connected = True
                    self._ring_all()  # what happened before the subscription held is there to be read
                    continue
                with self._lock:
                    watching = list(self._watches.get(message["data"].decode(), ()))
                for watch in watching:
                    watch.bell.set()


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable(f"Redis does not answer: {error}") from error


def _stream(job_id: str) -> str:
    return f"qanvas:events:{job_id}"


def _progress(job_id: str) -> str:
    return f"qanvas:progress:{job_id}"


def _preview(job_id: str) -> str:
    return f"qanvas:preview:{job_id}"
