"""What a ticket does: claim → prepare → kiln → encode → store → finish, on one of Celery's threads."""

from __future__ import annotations

import logging
import shutil
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from shared.aftermath import Aftermath
from shared.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InvalidInput,
    JobError,
    LeaseLost,
    ModelUnavailable,
    NotFound,
    Unavailable,
)
from shared.events import Events
from shared.jobs.batching import Combiner
from shared.jobs.leases import Leases
from shared.jobs.records import TRAINING_QUEUE, Ending, Failed, Finish, HandedBack, Job, StoppedOnRequest
from shared.jobs.states import Status
from shared.jobs.store import JobStore
from shared.queue import Tickets
from worker.announce import announce
from worker.checkpoints import Checkpoints
from worker.encode import encode_png
from worker.engines.base import Stopped, StopReason
from worker.held import Held
from worker.kiln.firing import Checkpoint, Outcome, Preview
from worker.kiln.kiln import Kiln
from worker.lease import LeaseKeeper
from worker.pace import Pace
from worker.prepare import Preparer
from worker.results import Results
from worker.scratch import Scratch

log = logging.getLogger(__name__)

#: seconds for which a thread takes its tickets by itself
_OWN_TICKETS = 1.0
#: seconds between two tries to tell a database that is away how a job ended, and for how long
_TRY_EVERY, _TRY_FOR = 0.5, 120.0


class Runner:
    """Runs jobs for tickets. Every collaborator is shared by all slots."""

    def __init__(
        self,
        *,
        worker_id: str,
        slots: int,
        leases: Leases,
        jobs: JobStore,
        keeper: LeaseKeeper,
        preparer: Preparer,
        kiln: Kiln,
        results: Results,
        checkpoints: Checkpoints,
        scratch: Scratch,
        events: Events,
        tickets: Tickets,
        pace: Pace,
        aftermath: Aftermath,
    ) -> None:
        self._worker_id = worker_id
        self._leases = leases
        self._jobs = jobs
        self._keeper = keeper
        self._preparer = preparer
        self._kiln = kiln
        self._results = results
        self._checkpoints = checkpoints
        self._scratch = scratch
        self._events = events
        self._tickets = tickets
        self._pace = pace
        self._aftermath = aftermath
        self._slots = threading.BoundedSemaphore(slots)
        self._training = threading.BoundedSemaphore(1)
        self._leaving = False
        self._claims: Combiner[str, Job | None] = Combiner(self._claim)
        self._finishes: Combiner[Finish, Job | LeaseLost] = Combiner(self._leases.finish)

    def ticket(self, queue: str) -> None:
        """Run the best job of the queue, if there is one; then, for a while, do so for further tickets.

        Taking those here spares Celery's way from Redis to a thread, which takes as long as claiming a job
        and writing its end. Other queues have their turn after that while."""
        until = time.monotonic() + _OWN_TICKETS
        self._ticket(queue)
        while (
            queue != TRAINING_QUEUE
            and not self._leaving
            and time.monotonic() < until
            and self._tickets.take(queue)
        ):
            self._ticket(queue)

    def _ticket(self, queue: str) -> None:
        with self._room(queue) as room:
            if self._leaving:
                self._tickets.send(queue)  # for another worker
            elif room and (job := self._claims.call(queue)) is not None:
                with self._pace.measured(queue):
                    self._run(job)
                if queue == TRAINING_QUEUE:  # tickets that found no room meanwhile are gone
                    self._tickets.send(queue)

    def leave(self, grace: float, hurry: threading.Event) -> None:
        """Take no more jobs. Those that run may end within ``grace`` seconds, or until ``hurry`` is set; then
        they are handed back with a checkpoint. Training is handed back at once: it would not end in time."""
        self._leaving = True
        for held in self._keeper.held():
            if held.job.queue == TRAINING_QUEUE:
                held.stop(StopReason.DRAINING)
        hurry.wait(grace)
        for held in self._keeper.held():
            held.stop(StopReason.DRAINING)

    @contextmanager
    def _room(self, queue: str) -> Iterator[bool]:
        """Wait for a slot. Training has one of its own, so that it never takes the last one from the others,
        and does not wait for it: False when it is taken."""
        own = queue == TRAINING_QUEUE
        seat = self._training if own else self._slots
        if taken := seat.acquire(blocking=not own):
            try:
                yield True
            finally:
                seat.release()
        else:
            yield taken

    def _claim(self, queues: Sequence[str]) -> list[Job | Exception | None]:
        """A job for each ticket, as far as they go; models that jobs here wait for are as good as loaded."""
        # two tenants' models of one name are taken for one: a wrong guess costs a place out of turn at most
        loaded = {model.rpartition("/")[2] for model in self._kiln.models}
        resident = loaded | {held.job.model for held in self._keeper.held()}
        found = {
            queue: iter(
                self._leases.claim(self._worker_id, queue, limit=queues.count(queue), resident=resident)
            )
            for queue in set(queues)
        }
        return [next(found[queue], None) for queue in queues]

    def _run(self, job: Job) -> None:
        held = Held(job, self._events, self._scratch.begin)
        self._keeper.hold(held)
        try:
            self._events.publish(job.id, "status", {"status": "running", "attempt": job.attempt})
            try:
                ending = self._attempt(held)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends this job and no other
                ending = _failure(error, traceback.format_exc())
            self._finish(held, ending)
        finally:
            self._keeper.release(held)
            self._scratch.remove(job.id, job.attempt)

    def _attempt(self, held: Held) -> Ending | None:
        """How the attempt ended; None when it is no longer this worker's."""
        job = held.job
        try:
            scratch = self._scratch.of(job.id, job.attempt)
            order = self._preparer.order(job, scratch, held.progress, held.wait)
        except Stopped as stopped:
            return self._ending(held, Outcome.of_error(stopped))
        firing = self._kiln.submit(order, held)
        held.fire(firing)
        for notice in firing.notices():
            match notice:
                case Preview(image):
                    data = {"url": f"/v1/jobs/{job.id}/preview"}
                    self._events.publish(job.id, "preview", data, preview=encode_png(image, {}))
                case Checkpoint(folder):
                    self._save(held, notice)
                    shutil.rmtree(folder, ignore_errors=True)
        assert firing.outcome is not None
        self._scratch.computed(job.id)
        return self._ending(held, firing.outcome)

    def _save(self, held: Held, checkpoint: Checkpoint) -> None:
        if held.lost:
            return
        try:
            self._checkpoints.save(held.job.id, checkpoint.folder)
            held.has_checkpoint = True
        except Unavailable as error:
            log.warning("%s: no checkpoint, its last one holds: %s", held.job.id, error)

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
                late = DeadlineExceeded(f"the job ran longer than its timeout of {held.job.timeout:g} s")
                return _failure(late, None)
            case error:
                return _failure(error, outcome.trace)

    def _finish(self, held: Held, ending: Ending | None) -> None:
        """Write how it ended, announce it, and remove what nobody needs any more."""
        job = held.job
        if isinstance(ending, Failed):
            log.warning("%s failed in attempt %d: %s", job.id, job.attempt, ending.message)
            if ending.traceback is not None and ending.type == "internal":
                log.warning("%s", ending.traceback)
        try:
            ended = None if ending is None else self._write(Finish(job.id, job.attempt, ending), held)
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

    def _write(self, finish: Finish, held: Held) -> Job | None:
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
            return Failed(type="internal", message=str(error), retryable=True, traceback=trace)
    return Failed(type="internal", message=f"{type(error).__name__}: {error}"[:500], traceback=trace)
