"""One job in the kiln: what was ordered, and what comes out of it."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shared.catalog.entries.model import Model
from worker.engines.contract.engine import (
    Call,
    Engine,
    Image,
    Progress,
    Result,
    Stopped,
    StopReason,
    Work,
)
from worker.engines.device_faults import device_fault
from worker.kiln.baton import JobThread, JobThreads
from worker.kiln.forwards import Answer


class Watcher(Protocol):
    """Hears of a job while it computes, on the job's thread: it must not block."""

    def begun(self) -> None:
        """Its first turn is here, or its model is about to be loaded. On the engine thread."""

    def progress(self, progress: Progress) -> None: ...

    def token(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A job, ready to compute: everything it reads lies on this machine."""

    work: Work
    model: Model
    #: what tells this model from every other for keeping it loaded, tenants and revisions included
    model_key: str
    #: the model's files; None for builtin ones
    folder: Path | None
    engine: Engine
    #: where the attempt may write; made when somebody does
    scratch: Path
    #: the checkpoint to go on from
    resume: Path | None = None
    #: runs beside others instead of before those that come later
    background: bool = False
    #: why it computes nothing together with others; empty where it may
    apart: str = ""
    #: seconds that the job may take: while its model is loaded, and from its first turn on
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    image: Image


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that is the job's alone now; whoever takes it removes it."""

    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Either a result or the error that ended the job: Stopped, a JobError, or what nobody expected."""

    result: Result | None = None
    error: BaseException | None = None
    #: the error's traceback as text, for operators
    trace: str | None = None
    #: seconds that loading the model took, 0.0 when it was loaded already
    load_seconds: float = 0.0

    @classmethod
    def of_error(cls, error: BaseException, load_seconds: float = 0.0) -> Outcome:
        """Keeps the traceback as text only: the frames hold on to tensors. What says that the device failed
        for good, whatever it was wrapped in, becomes a DeviceFault."""
        trace = "".join(traceback.format_exception(error))
        error = device_fault(error) or error
        return cls(error=error.with_traceback(None), trace=trace, load_seconds=load_seconds)


#: which reason counts when there are several
_WEIGHT = {
    StopReason.DRAINING: 0,
    StopReason.DEADLINE: 1,
    StopReason.CANCELED: 2,
    StopReason.LOST: 3,
}


class KilnJob:
    """The handle of a submitted job: ``stop`` it, and read its ``notices`` until it has ended."""

    def __init__(self, order: Order, watcher: Watcher, arrived: int) -> None:
        self.order = order
        self.watcher = watcher
        self.arrived = arrived
        self.stop_reason: StopReason | None = None
        #: when the time-out runs out, by ``time.monotonic``; None while it does not count
        self.deadline: float | None = None
        #: when the job was first asked to stop
        self.asked_at: float | None = None
        self.load_seconds = 0.0
        #: its model was loaded for it, and is kept until it begins
        self.pinned = False
        self.thread: JobThread | None = None
        #: what computing came to; the engine thread makes it the outcome
        self.computed: Outcome | None = None
        #: where the job waits, and then what came of it
        self.call: Call | None = None
        self.answer: Answer | None = None
        self.outcome: Outcome | None = None
        self._left = order.timeout
        self._lock = threading.Lock()
        self._notices: queue.SimpleQueue[Preview | Checkpoint | None] = queue.SimpleQueue()

    def stop(self, reason: StopReason) -> None:
        """End the job at its next boundary. Any thread may ask, more than once.

        One that does not compute yet ends here and now: it waits for nobody's turn, and for no model that
        is being loaded."""
        with self._lock:
            if self.stop_reason is None or _WEIGHT[reason] > _WEIGHT[self.stop_reason]:
                self.stop_reason = reason
            if self.asked_at is None:
                self.asked_at = time.monotonic()
            waits = self.thread is None
        if waits:
            self.end(Outcome.of_error(Stopped(reason)))

    def run_clock(self) -> None:
        """The time-out counts from now on, as far as it is not used up. Engine thread only."""
        if self.deadline is None and self._left is not None:
            self.deadline = time.monotonic() + self._left

    def stop_clock(self) -> None:
        """The job waits for its turn, which does not count. Engine thread only."""
        if self.deadline is not None:
            self._left, self.deadline = self.deadline - time.monotonic(), None

    def begin(self, body: Callable[[], None], threads: JobThreads) -> None:
        """Take a thread that will compute. Raises Stopped when the job was stopped before."""
        with self._lock:
            if self.stop_reason is not None:
                raise Stopped(self.stop_reason)
            self.thread = threads.take(body)

    def notices(self) -> Iterator[Preview | Checkpoint]:
        """What the job hands out on its way. Ends when the job has: then there is an ``outcome``."""
        while (notice := self._notices.get()) is not None:
            yield notice

    def wait(self) -> Outcome:
        """The outcome, for those who want no notices."""
        for _ in self.notices():
            continue
        assert self.outcome is not None
        return self.outcome

    def tell(self, notice: Preview | Checkpoint) -> None:
        """Hand a notice to the reader of ``notices``."""
        self._notices.put(notice)

    def end(self, outcome: Outcome) -> None:
        """Let the reader have the outcome; what comes after this does not count."""
        with self._lock:
            if self.outcome is None:
                self.outcome = outcome
                self._notices.put(None)

    @property
    def shall_stop(self) -> StopReason | None:
        """Why the job shall end now, if it shall."""
        if self.is_late:
            self.stop(StopReason.DEADLINE)
        return self.stop_reason

    @property
    def is_late(self) -> bool:
        """Whether the time-out has run out."""
        deadline = self.deadline  # the engine thread may change it
        return deadline is not None and time.monotonic() > deadline
