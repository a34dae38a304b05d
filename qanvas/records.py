"""What the server answers, as frozen records. Times are RFC 3339 texts in UTC, sizes are in bytes, durations
in seconds.

A record takes the members that it knows and keeps the whole JSON object in ``raw``, so that a newer server
may send more, and an older one less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypeVar

_R = TypeVar("_R", bound="Record")

TERMINAL = frozenset({"succeeded", "failed", "canceled", "expired"})


@dataclass(frozen=True, kw_only=True)
class Record:
    """One JSON object of the server."""

    #: the object as the server sent it
    raw: Mapping[str, Any] = field(repr=False, compare=False, default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], **more: Any) -> Self:
        """``more`` are members that no JSON holds, such as the client."""
        known = {one.name for one in fields(cls)} - {"raw", *more}
        return cls(raw=data, **{name: value for name, value in data.items() if name in known}, **more)


@dataclass(frozen=True, kw_only=True)
class JobError(Record):
    type: str = "internal"
    message: str = ""
    retryable: bool = False


@dataclass(frozen=True, kw_only=True)
class Progress(Record):
    """``fraction`` is 0 to 1."""

    stage: str | None = None
    step: int | None = None
    total: int | None = None
    fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class Waiting(Record):
    """Why a job does not run yet; ``estimate`` is seconds until its start, where that can be known."""

    reason: str = ""
    position: int | None = None
    estimate: float | None = None


@dataclass(frozen=True, kw_only=True)
class OutputRecord(Record):
    """A file that a job made. Further facts (``seed``, ``duration``, ``fps`` …) are in ``raw``."""

    id: str = ""
    index: int = 0
    media_type: str = "application/octet-stream"
    bytes: int = 0
    sha256: str = ""
    width: int | None = None
    height: int | None = None
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class JobRecord(Record):
    """A job as it was when the server answered."""

    id: str
    status: str
    model: str | None = None
    task: str = ""
    priority: int = 5
    input: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    attempts: int = 0
    max_attempts: int = 0
    group: str | None = None
    depends_on: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    cancel_requested: bool = False
    created_at: str | None = None
    queued_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    expires_at: str | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended: its status never changes again."""
        return self.status in TERMINAL

    @property
    def error(self) -> JobError | None:
        return _optional(JobError, self.raw.get("error"))

    @property
    def progress(self) -> Progress | None:
        return _optional(Progress, self.raw.get("progress"))

    @property
    def waiting(self) -> Waiting | None:
        return _optional(Waiting, self.raw.get("waiting"))


@dataclass(frozen=True, kw_only=True)
class Attempt(Record):
    """One attempt of a job that ended other than well."""

    attempt: int = 0
    worker: str | None = None
    host: str | None = None
    how: str = ""
    started_at: str | None = None
    ended_at: str | None = None

    @property
    def error(self) -> JobError | None:
        return _optional(JobError, self.raw.get("error"))


@dataclass(frozen=True, kw_only=True)
class DeadLetter(Record):
    """A job that has failed for good; ``retried_as`` is the id of the job that tries it again."""

    retried_as: str | None = None

    @property
    def job(self) -> JobRecord:
        return JobRecord.from_json(self.raw["job"])

    @property
    def attempts(self) -> list[Attempt]:
        return [Attempt.from_json(one) for one in self.raw.get("attempts", ())]


@dataclass(frozen=True, kw_only=True)
class Retried(Record):
    """What became of one dead letter: ``retried_as``, or why it was left alone in ``detail``."""

    job: str = ""
    retried_as: str | None = None
    detail: str | None = None


@dataclass(frozen=True, kw_only=True)
class Event(Record):
    """Something that happened to a job: ``status``, ``progress``, ``preview``, ``token``, ``output``,
    ``done``. ``id`` is a place in the stream, from which it can go on; ``data`` is the event's JSON value."""

    id: str
    type: str
    data: Any = None


@dataclass(frozen=True, kw_only=True)
class Group(Record):
    """How many jobs of a group are in each status."""

    group: str
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Model(Record):
    """``input_schemas``: the JSON Schema of each task's input."""

    id: str
    task: str = ""
    tasks: Sequence[str] = ()
    #: media type of its outputs; ``application/json`` where the answer is the job's ``result``
    output: str = ""
    state: str = ""
    queue: str = ""
    license: str | None = None
    description: str | None = None
    input_schema: Mapping[str, Any] = field(default_factory=dict)
    input_schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Worker(Record):
    id: str
    host: str = ""
    pid: int = 0
    device: str = ""
    slots: int = 0
    queues: Sequence[str] = ()
    running: Sequence[str] = ()
    models: Sequence[str] = ()
    trouble: str | None = None
    last_seen: str | None = None


@dataclass(frozen=True, kw_only=True)
class Queue(Record):
    name: str
    queued: int = 0
    held_back: int = 0
    oldest_seconds: float | None = None
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class File(Record):
    """An uploaded file; ``created_at`` is in seconds since 1970."""

    id: str
    bytes: int = 0
    filename: str = ""
    purpose: str = ""
    media_type: str = ""
    sha256: str = ""
    created_at: int = 0


def _optional(kind: type[_R], data: Any) -> _R | None:
    return kind.from_json(data) if isinstance(data, dict) else None
