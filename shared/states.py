"""The states of a job and the steps between them, as data. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    SCHEDULED = "scheduled"  #: not yet due, or waits for other jobs
    QUEUED = "queued"  #: may be claimed
    RUNNING = "running"  #: a worker holds the lease
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"  #: not started in time


TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.EXPIRED})
#: the others, in order
GOING_ON = tuple(status for status in Status if status not in TERMINAL)


@dataclass(frozen=True, slots=True)
class Transition:
    """From any of ``sources`` to ``target``; ``fenced`` ones hold for the current attempt alone."""

    sources: frozenset[Status]
    target: Status
    fenced: bool = False


def _step(*sources: Status, to: Status, fenced: bool = False) -> Transition:
    return Transition(frozenset(sources), to, fenced)


#: every write of a status names one of these
TRANSITIONS: Mapping[str, Transition] = {
    "wake": _step(Status.SCHEDULED, to=Status.QUEUED),
    "give-up": _step(Status.SCHEDULED, to=Status.FAILED),
    "claim": _step(Status.QUEUED, to=Status.RUNNING),
    "succeed": _step(Status.RUNNING, to=Status.SUCCEEDED, fenced=True),
    "fail": _step(Status.RUNNING, to=Status.FAILED, fenced=True),
    "try-again": _step(Status.RUNNING, to=Status.QUEUED, fenced=True),
    "back-off": _step(Status.RUNNING, to=Status.SCHEDULED, fenced=True),
    "hand-back": _step(Status.RUNNING, to=Status.QUEUED, fenced=True),
    "cancel": _step(Status.SCHEDULED, Status.QUEUED, to=Status.CANCELED),
    "stop": _step(Status.RUNNING, to=Status.CANCELED, fenced=True),
    "expire": _step(Status.SCHEDULED, Status.QUEUED, to=Status.EXPIRED),
}
