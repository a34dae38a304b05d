"""The records of jobs, all frozen. Times are seconds since 1970, sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.errors import ErrorType
from shared.files.holds import Read
from shared.states import TERMINAL, Status
from shared.webhooks.subscription import Webhook

#: the queue whose jobs run beside others instead of before those that come later
TRAINING_QUEUE = "training"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What a job is to do, as it was submitted: the input has been checked, and defaults are filled in."""

    tenant: str
    task: str
    model: str
    queue: str
    input: Mapping[str, Any]
    priority: int = 5
    max_attempts: int = 3
    #: seconds that one attempt may run
    timeout: float | None = None
    #: not before this time
    run_at: float | None = None
    #: ids of jobs of the tenant that must have succeeded before it is queued
    depends_on: tuple[str, ...] = ()
    group: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    webhook: Webhook | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob(JobSpec):
    """A job to submit."""

    #: seconds after submission at which a job that has not started expires
    expires_in: float | None = None
    #: the places of its input that are files, which must be there when the job is committed
    reads: tuple[Read, ...] = ()
    idempotency_key: str | None = None
    #: hash of the request, to tell a replay from another request under the same key
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOutput:
    """A file that lies in storage already and is about to be named."""

    index: int
    media_type: str
    bytes: int
    sha256: str
    key: str
    #: what its medium has to say of itself, as ``width`` and ``height`` of a picture in pixels
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(NewOutput):
    id: str
    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(JobSpec):
    """One row of ``jobs`` with its outputs; ``rows`` says which column each field is."""

    id: str
    status: Status
    #: the start tag, its place among those of its queue and priority; None until it is first queued, see
    #: ``fair_queueing``
    tag: float | None
    #: queued, and passed over while its tenant runs as many jobs as it may, see ``concurrency_limits``
    parked: bool
    #: the fencing token: raised by every claim, named by every later write
    attempt: int
    #: attempts that count against ``max_attempts``; one that is handed back does not
    attempts: int
    #: the id of the worker that holds the lease, or held it last
    worker: str | None
    cancel_requested: bool
    #: as of the last lease renewal; ``Events.latest_progress`` is fresher
    progress: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    load_seconds: float | None
    created_at: float
    #: when a scheduled job may be queued, for the first time or again; None where its time plays no part
    due_at: float | None
    #: how many of the jobs in ``depends_on`` it still waits for
    waits_for: int
    #: other jobs wait for its end
    awaited: bool
    expires_at: float | None
    queued_at: float | None
    started_at: float | None
    finished_at: float | None
    #: the id of the job that retries this one, the last one where there are several
    retried_as: str | None
    #: the folder of its last checkpoint, as ``Checkpoints`` names them; None where there is none
    checkpoint: str | None
    outputs: tuple[Output, ...] = ()

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def backs_off(self) -> bool:
        """Whether an attempt failed and the next one is not due yet."""
        return self.status is Status.SCHEDULED and self.attempt > 0

    @property
    def shown_status(self) -> Status:
        """The status that clients see: to them a retry goes from running to queued."""
        return Status.QUEUED if self.backs_off else self.status


def no_such_output(job: Job, index: int) -> str:
    """What is wrong with asking an ended job for this output."""
    return f"{job.id} has no output {index}: it made {len(job.outputs)}, counted from 0"


@dataclass(frozen=True, slots=True)
class Submitted:
    """``replayed``: the job was there already under the same idempotency key."""

    job: Job
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Newest first; ``next_cursor`` is None on the last page."""

    items: tuple[Job, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a worker learns when it renews its leases, as ids of jobs."""

    #: another worker's now, or ended: write nothing more
    lost: frozenset[str]
    #: somebody asked these to stop
    canceled: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewModel:
    """A trained model for the catalog; ``entry`` is the catalog's own serialised form."""

    id: str
    entry: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    outputs: tuple[NewOutput, ...] = ()
    result: Mapping[str, Any] | None = None
    load_seconds: float | None = None
    model: NewModel | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """``traceback`` is for operators; it never leaves through the API."""

    type: ErrorType
    message: str
    retryable: bool = False
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class StoppedOnRequest:
    """The job was canceled and the worker has stopped it."""


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The worker leaves; the job goes on elsewhere and the attempt does not count."""


Ending = Succeeded | Failed | StoppedOnRequest | HandedBack


@dataclass(frozen=True, slots=True)
class Finish:
    """One attempt's end, as the worker that holds the lease reports it."""

    job_id: str
    attempt: int
    ending: Ending
