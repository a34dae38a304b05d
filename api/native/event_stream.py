"""A job's events as ``text/event-stream``: what was kept is replayed, then what comes, then ``done``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from api.usecases.long_poll import present_job, still_there
from api.usecases.services import Services
from shared.errors import InvalidInput, NotFound, Unavailable
from shared.jobs.entities import Job
from shared.json_text import to_json
from shared.messaging.events import Event
from shared.states import Status

#: seconds of silence after which a comment shows that the line still holds
_COMMENT_EVERY = 15.0
#: seconds between two looks at a row that the database did not give, or that is to change at once
_AGAIN = 0.25
#: seconds that the last events of an ended job may be late
_GRACE = 1.0

_ID = re.compile(r"(\d{1,15})-(\d{1,9})")


def position(last_event_id: str | None) -> str | None:
    """The id to go on after; None for a fresh start. Raises InvalidInput for one that no stream gave."""
    if not last_event_id:
        return None
    if _ID.fullmatch(last_event_id) is None:
        raise InvalidInput.at("", "Last-Event-ID must be the id of an event of this stream")
    return last_event_id


def is_over(job: Job, after: str | None) -> bool:
    """Whether a client that saw everything up to ``after`` has seen the end: it need not ask again."""
    return after is not None and job.finished_at is not None and _order(after) >= _order(_end_id(job, "0-0"))


def events(services: Services, job: Job, after: str | None, has_left: Callable[[], bool]) -> Iterator[bytes]:
    """The stream, from the first event or from the one after ``after``, until its reader ``has_left``."""
    yield b"retry: 1000\n\n"
    reader = _Reader(services, job, after or f"{int(job.created_at * 1000)}-0")
    if after is None:
        waited = bool(job.depends_on) or (job.run_at is not None and job.run_at > job.created_at)
        first = Status.SCHEDULED if waited else Status.QUEUED
        yield _frame(reader.last, "status", {"status": first.value})
    spoke = time.monotonic()
    with services.follower.watch(job.id) as watch:
        while True:
            for event in reader.news(look=watch.shall_look()):
                spoke = time.monotonic()
                yield _frame(event.id, event.type, event.data)
            if reader.complete:
                yield _frame(_end_id(reader.job, reader.last), "done", present_job(services, reader.job))
            # a server that stops ends the stream too: the client comes back with Last-Event-ID
            if reader.complete or reader.gone or services.closing.is_set():
                return
            if time.monotonic() - spoke >= _COMMENT_EVERY:
                spoke = time.monotonic()
                yield b": still here\n\n"
            until_comment = max(0.0, spoke + _COMMENT_EVERY - time.monotonic())
            if not still_there(watch, min(reader.patience, until_comment), has_left):
                return


class _Reader:
    """What is new of a job: its events from Redis, and from the database whether it has ended."""

    def __init__(self, services: Services, job: Job, after: str) -> None:
        self._services = services
        self.job = job
        #: the id of the last event that was given out
        self.last = after
        #: the job was deleted
        self.gone = False
        self._announced = False  # Redis says done; the row says so too, or will at once
        self._ended = time.monotonic() if job.is_terminal else None
        self._must_look = False

    def news(self, *, look: bool) -> list[Event]:
        """The events since the last call; ``look``: the job may have ended. ``done`` is not among them: the
        row is what is sure of that."""
        try:
            found = self._services.events.read(self.job.id, self.last)
        except Unavailable:
            found = []
        new = [event for event in found if event.type != "done"]
        self._announced = len(new) < len(found)
        if new:
            self.last = new[-1].id
        self._must_look = self._must_look or look or self._announced
        if self._ended is None and self._must_look:
            self._look()
        return new

    def _look(self) -> None:
        try:
            self.job = self._services.jobs.get(self.job.id)
        except NotFound:
            self.gone = True
        except Unavailable:
            return  # the stream outlives a restart of the database
        self._must_look = False
        self._ended = time.monotonic() if self.job.is_terminal else None

    @property
    def complete(self) -> bool:
        """The job has ended and its last events are here, or will not come any more."""
        if self._ended is None:
            return False
        finished = self.job.finished_at or 0.0
        grace = _GRACE if time.time() - finished < 5 * _GRACE else 0.0
        return self._announced or time.monotonic() - self._ended >= grace

    @property
    def patience(self) -> float:
        """Seconds until it is worth looking again, though nothing was announced."""
        soon = self._ended is not None or self._announced or self._must_look
        return _AGAIN if soon else _COMMENT_EVERY


def _end_id(job: Job, last: str) -> str:
    """The id of ``done``: the job's end, or just after the last event where that is later."""
    end = (int((job.finished_at or 0) * 1000) + int(5 * _GRACE * 1000), 0)
    return "{}-{}".format(*max(end, (_order(last)[0], _order(last)[1] + 1)))


def _order(event_id: str) -> tuple[int, int]:
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number or 0)


def _frame(event_id: str, kind: str, data: Any) -> bytes:
    text = to_json(data)
    return f"id: {event_id}\nevent: {kind}\ndata: {text}\n\n".encode()
