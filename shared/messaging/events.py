"""What happens to a job while it runs, for those who watch: kept in a Redis stream, announced by a wake-up.

Events are a convenience. Everything that must not be lost is in the database: where Redis is away, events
are dropped and watchers look at the row once a second.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import redis

from shared.errors import Unavailable
from shared.json_text import to_json
from shared.messaging.client import connect

EventType = Literal["status", "progress", "preview", "token", "output", "done"]

log = logging.getLogger(__name__)

#: the channel that names every job with something new, and says ``done`` after it when that was its end
WAKE = b"qanvas:wake"
#: the channel of jobs that were asked to stop while they ran, by id
STOP = b"qanvas:stop"
#: events kept for each job, and for how many seconds after the last
_KEEP, _KEEP_SECONDS = 5_000, 24 * 3600
#: what the keys of a job begin with
_STREAM, _PROGRESS, _PREVIEW = "qanvas:events:", "qanvas:progress:", "qanvas:preview:"
#: of each job, the rank of the latest speaker
_SPEAKER = "qanvas:speaker:"
#: what ``_TELL`` is given before the events
_TERMS = (_STREAM, _PROGRESS, _PREVIEW, _SPEAKER, WAKE, STOP, _KEEP, _KEEP_SECONDS)
#: writes a batch: of each event the job, the type, the data and the rank of its speaker, where no type is a
#: preview, "stop" asks the job to stop, and no rank is never too late. As a script, since a client that makes
#: four commands of an event and reads their answers takes a tenth of a worker's time
_TELL = """
local stream, progress, preview, speaker, wake, stop, keep, seconds = unpack(ARGV, 1, 8)
local told, heard = {}, {}
local function too_late(job, rank)
    local last = heard[job] or tonumber(redis.call('GET', speaker .. job) or -1)
    if rank > last then
        redis.call('SET', speaker .. job, rank, 'EX', seconds)
    end
    heard[job] = math.max(rank, last)
    return rank < last
end
for i = 9, #ARGV, 4 do
    local job, kind, data, rank = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
    if rank and too_late(job, rank) then
        -- of an attempt that is over
    elseif kind == 'stop' then
        redis.call('PUBLISH', stop, job)
    elseif kind == '' then
        redis.call('SET', preview .. job, data, 'EX', seconds)
    else
        if kind == 'progress' then
            redis.call('SET', progress .. job, data, 'EX', seconds)
        end
        redis.call('XADD', stream .. job, 'MAXLEN', '~', keep, '*', 'type', kind, 'data', data)
        told[job] = kind == 'done' and ' done' or told[job] or ''
    end
end
for job, done in pairs(told) do
    redis.call('EXPIRE', stream .. job, seconds)
    redis.call('EXPIRE', speaker .. job, seconds)
    redis.call('PUBLISH', wake, job .. done)
end
"""
#: events sent in one round trip; and waiting ones beyond which progress is dropped
_BATCH, _BACKLOG = 256, 20_000
#: seconds for which progress waits for that of other jobs: those that share a step report one after the other
_GATHER = 0.05
#: reads at once: each takes a connection, and a thousand watchers may be woken together
_READERS = 8
_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Event:
    """``id`` grows within a job, so that a reader can go on where it stopped."""

    id: str
    type: EventType
    data: Mapping[str, Any]


class Speaker(NamedTuple):
    """Which attempt an event tells of, and whether that was ``over`` by then.

    What is told of an earlier state after a later one was told of is dropped: it comes from a worker that
    was stopped for a while, and would show its steps and pictures among those of the attempt that took
    over."""

    attempt: int
    over: bool = False

    @property
    def rank(self) -> int:
        """Grows from the beginning of an attempt to its end, and to the beginning of the next."""
        return 2 * self.attempt + self.over


class _Outgoing(NamedTuple):
    """An event, or without a type, word that the job was asked to stop."""

    job_id: str
    type: EventType | None = None
    data: Mapping[str, Any] = {}
    preview: bytes | None = None
    speaker: Speaker | None = None


class Events:
    """Publish and read events. One object for each process; its thread starts with the first publish."""

    def __init__(self, redis_url: str) -> None:
        self._redis = connect(redis_url, timeout=_TIMEOUT)
        self._tell = self._redis.register_script(_TELL)
        self._outbox: queue.SimpleQueue[_Outgoing | None] = queue.SimpleQueue()
        self._hurry = threading.Event()  # set when the outbox holds more than progress
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._readers = threading.BoundedSemaphore(_READERS)

    def publish(
        self,
        job_id: str,
        type: EventType,
        data: Mapping[str, Any],
        *,
        preview: bytes | None = None,
        speaker: Speaker | None = None,
    ) -> None:
        """Tell those who watch a job. Never blocks; dropped where Redis is away, and where a later
        ``speaker`` was heard already.

        ``preview`` are the bytes of a picture file, kept as the job's latest preview."""
        if type == "progress" and self._outbox.qsize() > _BACKLOG:
            return
        self._put(_Outgoing(job_id, type, data, preview, speaker))

    def ask_to_stop(self, job_id: str) -> None:
        """Let the worker that runs this job look at its row now. Never blocks; where Redis is away, the
        worker looks at its next renewal."""
        self._put(_Outgoing(job_id))

    def _put(self, outgoing: _Outgoing) -> None:
        self._outbox.put(outgoing)
        if outgoing.type != "progress":
            self._hurry.set()
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._send_forever, name="events", daemon=True)
                    self._thread.start()

    def read(self, job_id: str, after: str = "0", *, limit: int = 1000) -> list[Event]:
        """Events of a job after that id, oldest first. Raises Unavailable."""
        with _answering(), self._readers:
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
            with self._readers:
                found = self._redis.mget([_progress(job_id) for job_id in job_ids])
        except redis.RedisError:
            return {}
        return {job_id: json.loads(text) for job_id, text in zip(job_ids, found, strict=True) if text}

    def preview(self, job_id: str) -> bytes | None:
        """The latest preview as the bytes of a picture file, or None. Raises Unavailable."""
        with _answering():
            found = self._redis.get(_preview(job_id))
        return found if isinstance(found, bytes) else None

    def forget(self, job_id: str) -> None:
        """Remove what is kept of a job that is deleted; it would go by itself later. Its speaker stays until
        then, and keeps out what a worker that was stopped says of it."""
        with _answering():
            self._redis.delete(_stream(job_id), _progress(job_id), _preview(job_id))

    def close(self) -> None:
        """Send what is pending, for as long as Redis answers, and stop."""
        if self._thread is not None:
            self._outbox.put(None)
            self._hurry.set()
            self._thread.join(timeout=_TIMEOUT)
        self._redis.close()

    def _send_forever(self) -> None:
        open_ = True
        while open_:
            batch = [first := self._outbox.get()]
            if first is not None and first.type == "progress" and self._outbox.qsize() < _BATCH:
                self._hurry.wait(_GATHER)
            self._hurry.clear()
            while len(batch) < _BATCH and not self._outbox.empty():
                batch.append(self._outbox.get())
            open_ = None not in batch
            try:
                self._send([item for item in batch if item is not None])
            except redis.RedisError as error:
                log.warning("%d events dropped, Redis does not answer: %s", len(batch), error)

    def _send(self, batch: Sequence[_Outgoing]) -> None:
        given: list[str | bytes] = []
        for job_id, type_, data, preview, speaker in batch:
            rank = "" if speaker is None else str(speaker.rank)
            if preview is not None:
                given += (job_id, "", preview, rank)
            given += (job_id, "stop", "", "") if type_ is None else (job_id, type_, to_json(data), rank)
        self._tell(args=(*_TERMS, *given))


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable("Redis does not answer", str(error)) from error


def _stream(job_id: str) -> str:
    return f"{_STREAM}{job_id}"


def _progress(job_id: str) -> str:
    return f"{_PROGRESS}{job_id}"


def _preview(job_id: str) -> str:
    return f"{_PREVIEW}{job_id}"
