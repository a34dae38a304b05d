"""How an attempt ended, written down: what it made is stored, then its end is committed and announced.

Meanwhile its slot is the next job's, so that the device does not wait for disks and databases. The lease is
renewed until all of it is done.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from shared.db.group_commit import GroupCommit
from shared.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InvalidInput,
    JobError,
    LeaseLost,
    ModelUnavailable,
    NotFound,
    QanvasError,
    Unavailable,
)
from shared.jobs.entities import Ending, Failed, Finish, HandedBack, Job, StoppedOnRequest
from shared.logs import one_line
from shared.states import Status
from worker.attempts import retry_waits
from worker.attempts.announcement import announce
from worker.attempts.context import WorkerContext
from worker.attempts.held_job import HeldJob
from worker.attempts.retry_waits import waits
from worker.engines.contract.engine import Result, Stopped, StopReason
from worker.health.disk_full import no_room
from worker.kiln.kiln_job import Outcome

log = logging.getLogger(__name__)

#: seconds between two tries to tell a database that is away how a job ended
_TRY_EVERY = 0.5
#: how often a job is handed back without counting the attempt. Beyond, it may be the job's own doing: one
#: whose files fill every disk must not be tried for ever
_SPARED = 10

#: the terminal status that an ending leads to, where it leads to one
_ENDS: Mapping[type[Ending], Status] = {Failed: Status.FAILED, StoppedOnRequest: Status.CANCELED}


class Completer:
    """Ends jobs on threads of its own."""

    def __init__(
        self, context: WorkerContext, noted: Callable[[Job, Ending], None] = lambda _job, _ending: None
    ) -> None:
        """``noted`` hears how each attempt ended."""
        most = context.settings.slots
        self._worker_id = context.worker_id
        self._jobs = context.jobs
        self._keeper = context.keeper
        self._results = context.results
        self._leftovers = context.leftovers
        self._scratch = context.scratch
        self._fitness = context.fitness
        self._events = context.events
        self._tickets = context.tickets
        self._completion = context.completion
        self._noted = noted
        #: the jobs that are on their way to their end; any thread may look
        self.ending: set[str] = set()
        self._places = threading.BoundedSemaphore(most)
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="ending")
        self._finishes: GroupCommit[Finish, Job | LeaseLost] = GroupCommit(
            context.leases.finish, turns=context.write_turns
        )

    def end(self, held: HeldJob, outcome: Outcome) -> None:
        """Have this attempt ended. Waits while too many are: a storage that hangs must stop the worker, not
        fill its memory with pictures."""
        self._places.acquire()
        self.ending.add(held.job.id)
        self._threads.submit(self._end, held, outcome)

    def close(self) -> None:
        """Return when all that were to be ended are."""
        self._threads.shutdown()

    def _end(self, held: HeldJob, outcome: Outcome) -> None:
        job = held.job
        try:
            try:
                ending = self._ending(held, outcome)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends this job and no other
                ending = self._of_error(held.job, error, traceback.format_exc())
            self._finish(held, ending)
        except Exception:
            log.exception("%s: its end is not written, it runs again", job.id)
        finally:
            self._keeper.release(held)
            self._scratch.remove(job.id, job.attempt)
            self.ending.discard(job.id)
            self._places.release()

    def _ending(self, held: HeldJob, outcome: Outcome) -> Ending | None:
        match outcome.error:
            case None:
                assert outcome.result is not None
                return self._store(held, outcome.result, outcome.load_seconds)
            case Stopped(reason=reason):
                return stopped(held.job, reason)
            case error:
                return self._of_error(held.job, error, outcome.trace)

    def _store(self, held: HeldJob, result: Result, load_seconds: float) -> Ending | None:
        """Store what was computed. It is kept while the storage does not take it; when that takes long, the
        job is handed back, and where it shall stop meanwhile, it does."""
        for wait in waits():
            try:
                stored = self._results.store(held.job, result, load_seconds)
            except Unavailable as error:
                log.warning("%s has ended but is not stored yet: %s", held.job.id, error)
                failure, trace = error, traceback.format_exc()
                self._fitness.report(error)
                held.pause(wait)
                if held.reason is not None:
                    return stopped(held.job, held.reason)
            else:
                self._fitness.stored()
                return stored
        return self._of_error(held.job, failure, trace)

    def _of_error(self, job: Job, error: BaseException, trace: str | None) -> Ending:
        """What becomes of a job that met this error: it is handed back where that says nothing of the job."""
        full = no_room(error)
        own = (full or isinstance(error, Unavailable | OSError)) and self._fitness.report(error)
        if not own and not isinstance(error, Unavailable):
            return _failure(error, trace)
        if job.attempt - job.attempts < _SPARED:
            log.warning("%s is handed back, its attempt does not count: %s", job.id, error)
            return HandedBack()
        if full:
            said = f"no worker had room for its files, {_SPARED} times; the workers' logs say where"
            return Failed(type="internal", message=said, retryable=True, traceback=trace)
        return _failure(error, trace)

    def _finish(self, held: HeldJob, ending: Ending | None) -> None:
        """Write how it ended, announce it, and remove what nobody needs any more."""
        job = held.job
        if ending is not None:
            self._noted(job, ending)
        if isinstance(ending, Failed):
            log.warning("%s failed in attempt %d: %s", job.id, job.attempt, one_line(ending.message))
            if ending.traceback is not None and ending.type == "internal":
                log.warning("%s", ending.traceback)
        try:
            ended = None if ending is None else self._write(held, Finish(job.id, job.attempt, ending))
        except Unavailable as error:
            # it may have been written all the same: its files stay until maintenance finds the lease expired
            log.error("%s: commit failed, it runs again when its lease expires: %s", job.id, error)
            return
        if ended is None:
            log.warning("attempt %d of %s is no longer this worker's", job.attempt, job.id)
            self._leftovers.of_attempt(job.id, job.attempt)
            return
        if ended.status is Status.QUEUED:
            self._tickets.send(ended.queue)
        announce(self._events, ended)
        with suppress(Unavailable):  # maintenance does what is left
            self._completion.handle(ended)
        if ended.status is not Status.SUCCEEDED:
            self._leftovers.of_attempt(job.id, job.attempt)
        if ended.is_terminal:
            self._leftovers.of_earlier_attempts(job.id, job.attempt)
        if ended.is_terminal and held.has_checkpoint:
            self._leftovers.of_checkpoints(job.id)

    def _write(self, held: HeldJob, finish: Finish) -> Job | None:
        """The job as it is now; None when it is not this worker's any more.

        When the database stays away for long, what was computed is given up, and the job is handed back as
        soon as the database answers. Raises Unavailable when the worker leaves before."""
        deadline = time.monotonic() + retry_waits.TRY_FOR
        while True:
            try:
                ended = self._finishes.call(finish)
            except LeaseLost:
                return self._already(finish)
            except Unavailable as error:
                if time.monotonic() < deadline:
                    log.warning("%s has ended but is not written yet: %s", finish.job_id, error)
                elif held.reason is StopReason.DRAINING:
                    raise
                elif not isinstance(finish.ending, HandedBack):
                    log.error("%s has ended and nobody could be told: it is handed back", finish.job_id)
                    finish = Finish(finish.job_id, finish.attempt, HandedBack())
                time.sleep(_TRY_EVERY)
            else:
                return ended if isinstance(ended, Job) else None

    def _already(self, finish: Finish) -> Job | None:
        """A commit whose answer was lost looks like a lost lease when it is tried again: the row tells."""
        with suppress(NotFound):
            job = self._jobs.get(finish.job_id)
            # maintenance ends a lost attempt too, and never well
            own = job.status in (Status.SUCCEEDED, _ENDS.get(type(finish.ending)))
            if own and job.attempt == finish.attempt and job.worker == self._worker_id:
                return job
        return None


def stopped(job: Job, reason: StopReason) -> Ending | None:
    """How a job ends that was told to stop; None where it is not this worker's any more."""
    match reason:
        case StopReason.LOST:
            return None
        case StopReason.CANCELED:
            return StoppedOnRequest()
        case StopReason.DRAINING:
            return HandedBack()
        case StopReason.DEADLINE:
            late = DeadlineExceeded(f"the job ran longer than its timeout of {job.timeout:g} s")
            return _failure(late, None)


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
