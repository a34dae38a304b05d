"""A job's event stream: frames out of bytes, and what to do when the connection breaks. No I/O.

Lines are split here rather than by ``httpx.Response.iter_lines``, which also breaks at characters such as
U+2028, that JSON may hold as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx

from qanvas import errors
from qanvas.protocol import Patience, Request
from qanvas.records import Event

#: seconds without a byte after which a connection counts as broken; the server sends a comment every 15 s
_SILENCE = 45.0


class EventStream:
    """Where one reader is in the stream. It can go on after any event."""

    def __init__(self, job_id: str, patience: Patience, after: str | None = None) -> None:
        self.last_id, self._ended = after, False
        self._job_id, self._patience = job_id, patience
        self._tries, self._waited = 0, 0.0
        self._buffer = b""
        self._frame: dict[str, str] = {}

    def has_ended(self) -> bool:
        """Whether the last event was ``done``: nothing more will come."""
        return self._ended

    def request(self) -> Request:
        """The request that goes on behind the last event."""
        self._buffer, self._frame = b"", {}
        headers = {"Accept": "text/event-stream"}
        if self.last_id is not None:
            headers["Last-Event-ID"] = self.last_id
        return Request("GET", f"/v1/jobs/{self._job_id}/events", headers=headers, timeout=_SILENCE)

    def received(self, chunk: bytes) -> Iterator[Event]:
        """The events that these bytes complete."""
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            text = line.removesuffix(b"\r").decode("utf-8", "replace")
            if text:
                name, _, value = text.partition(":")
                value = value.removeprefix(" ")
                if name == "data" and "data" in self._frame:
                    value = f"{self._frame['data']}\n{value}"
                self._frame[name] = value
            else:
                frame, self._frame = self._frame, {}
                if "data" in frame:
                    yield self._event(frame)

    def _event(self, frame: dict[str, str]) -> Event:
        self._tries, self._waited = 0, 0.0
        self.last_id = frame.get("id", self.last_id)
        kind = frame.get("event", "message")
        self._ended = kind == "done"
        return Event(id=self.last_id or "", type=kind, data=json.loads(frame["data"]))

    def refused(self, response: httpx.Response) -> float:
        """Seconds to wait after an error response, which was read. Raises it where waiting is no help."""
        failure = errors.from_response(response)
        if not isinstance(failure, errors.OverLimit | errors.ServerError):
            raise failure
        return self._delay(failure)

    def broken(self, error: httpx.TransportError | None) -> float:
        """Seconds to wait before the next connection; None: the server ended the stream before the job ended.
        Raises NoAnswer when it happened too often without an event between."""
        if error is None:
            url = self._patience.url
            return self._delay(errors.NoAnswer(f"{url} ended the event stream", url=url, connected=True))
        return self._delay(errors.from_transport(error, self._patience.url))

    def _delay(self, failure: errors.QanvasError) -> float:
        self._tries += 1
        delay = self._patience.delay(failure, self._tries, self._waited)
        if delay is None:
            raise failure
        self._waited += delay
        return delay
