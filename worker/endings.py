"""How an attempt ended, written down: what it made is stored, then its end is committed and announced.

Meanwhile its slot is the next job's, so that the device does not wait for disks and databases. The lease is
renewed until all of it is done.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from shared.aftermath import Aftermath
from shared.errors import (
    ConfigurationError,
    InvalidInput,
    JobError,
    LeaseLost,
    ModelUnavailable,
    NotFound,
    QanvasError,
    Unavailable,
)
from shared.events import Events
from shared.jobs.batching import Combiner
from shared.jobs.leases import Leases
from shared.jobs.records import Ending, Failed, Finish, HandedBack, Job, StoppedOnRequest
from shared.jobs.states import Status
from shared.jobs.store import JobStore
from shared.queue import Tickets
from worker.announce import announce
from worker.checkpoints import Checkpoints
from worker.engines.base import Stopped, StopReason
from worker.held import Held
from worker.kiln.firing import Outcome
from worker.lease import LeaseKeeper
from worker.results import Results
from worker.scratch import Scratch

log = logging.getLogger(__name__)

#: seconds between two tries to tell a database that is away how a job ended, and for how long
_TRY_EVERY, _TRY_FOR = 0.5, 120.0


class Endings:
    """Ends jobs on threads of its own."""

    def __init__(
        self,
        *,
        worker_id: str,
        most: int,
        leases: Leases,
        jobs: JobStore,
        keeper: LeaseKeeper,
        results: Results,
        checkpoints: Checkpoints,
        scratch: Scratch,
        events: Events,
        tickets: Tickets,
        aftermath: Aftermath,
        turns: threading.Lock,
        noted: Callable[[Job, Ending], None] = lambda _job, _ending: None,
    ) -> None:
        """``most``: jobs that may be on their way to their end at once; ``turns``: of those that write to the
        database together; ``noted`` hears how each attempt ended."""
        self._worker_id = worker_id
        self._jobs = jobs
        self._keeper = keeper
        self._results = results
        self._checkpoints = checkpoints
        self._scratch = scratch
        self._events = events
        self._tickets = tickets
        self._aftermath = aftermath
        self._noted = noted
        #: the jobs that are on their way to their end; any thread may look
        self.ending: set[str] = set()
        self._places = threading.BoundedSemaphore(most)
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="ending")
        self._finishes: Combiner[Finish, Job | LeaseLost] = Combiner(leases.finish, turns=turns)

    def end(self, held: Held, outcome: Outcome) -> None:
        """Have this attempt ended. Waits while too many are: a storage that hangs must stop the worker, not
        fill its memory with pictures."""
        self._places.acquire()
        self.ending.add(held.job.id)
        self._threads.submit(self._end, held, outcome)

    def close(self) -> None:
        """Return when all that were to be ended are."""
        self._threads.shutdown()

    def _end(self, held: Held, outcome: Outcome) -> None:
        job = held.job
        try:
            try:
                ending = self._ending(held, outcome)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends this job and no other
                ending = _failure(error, traceback.format_exc())
            self._finish(held, ending)
        except Exception:
            log.exception("%s: its end is not written, it runs again", job.id)
        finally:
            self._keeper.release(held)
            self._scratch.remove(job.id, job.attempt)
            self.ending.discard(job.id)
            self._places.release()

    def _ending(self, held: Held, outcome: Outcome) -> Ending | None:
        match outcome.error:
            case None:
                assert outcome.result is not None
                return self._results.store(held.job, outcome.result, outcome.load_seconds)
            case Stopped(reason=StopReason.LOST):
                return None
            case Stopped(reason=StopReason.CANCELED):
                return StoppedOnRequest()
            case Stopped(reason=StopReason.DRAINING):
                return HandedBack()
            case Stopped():
                return _failure(held.too_late(), None)
            case error:
                return _failure(error, outcome.trace)

    def _finish(self, held: Held, ending: Ending | None) -> None:
        """Write how it ended, announce it, and remove what nobody needs any more."""
        job = held.job
        if ending is not None:
            self._noted(job, ending)
        if isinstance(ending, Failed):
            log.warning("%s failed in attempt %d: %s", job.id, job.attempt, ending.message)
            if ending.traceback is not None and ending.type == "internal":
                log.warning("%s", ending.traceback)
        try:
            ended = None if ending is None else self._write(Finish(job.id, job.attempt, ending))
        except Unavailable as error:
            # it may have been written all the same: its files stay, and upkeep removes them with the lease
            log.error("nobody could be told how %s ended, it runs again: %s", job.id, error)
            return
        if ended is None:
            log.warning("attempt %d of %s is no longer this worker's", job.attempt, job.id)
            self._results.take_back(job.id, job.attempt)
            return
        if ended.status is Status.QUEUED:
            self._tickets.send(ended.queue)
        announce(self._events, ended)
        with suppress(Unavailable):  # upkeep does what is left
            self._aftermath.of(ended)
            if ended.status is not Status.SUCCEEDED:
                self._results.take_back(job.id, job.attempt)
            if ended.is_terminal:
                self._results.take_back_before(job.id, job.attempt)
            if ended.is_terminal and held.has_checkpoint:
                self._checkpoints.forget(job.id)

    def _write(self, finish: Finish) -> Job | None:
        """The job as it is now; None when it is not this worker's any more.

        Raises Unavailable when the database stays away for long."""
        deadline = time.monotonic() + _TRY_FOR
        while True:
            try:
                ended = self._finishes.call(finish)
            except LeaseLost:
                return self._already(finish)
            except Unavailable as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("%s has ended but is not written yet: %s", finish.job_id, error)
                time.sleep(_TRY_EVERY)
            else:
                return ended if isinstance(ended, Job) else None

    def _already(self, finish: Finish) -> Job | None:
        """A commit whose answer was lost looks like a lost lease when it is tried again: the row tells."""
        with suppress(NotFound):
            job = self._jobs.get(finish.job_id)
            if job.attempt == finish.attempt and job.is_terminal and job.worker == self._worker_id:
                return job
        return None


def _failure(error: BaseException, trace: str | None) -> Failed:
    """An error in the words of the contract."""
    match error:
        case JobError():
            return Failed(type=error.type, message=error.message, retryable=error.retryable, traceback=trace)
        case ConfigurationError():  # an engine's libraries are not there, say
            return _failure(ModelUnavailable(str(error), retryable=False), trace)
        case InvalidInput():
            return Failed(type="invalid-input", message=str(error), traceback=trace)
        case Unavailable():
            return Failed(type="internal", message=error.public, retryable=True, traceback=trace)
        case QanvasError():
            said = f"{type(error).__name__}: {error}"[:500]
            return Failed(type="internal", message=said, traceback=trace)
    # nobody foresaw it: its words may hold a path or an address of this machine, so only the trace has them
    more = "the worker's log and, for admins, the job's attempts say more"
    return Failed(
        type="internal", message=f"internal error ({type(error).__name__}); {more}", traceback=trace
    )
