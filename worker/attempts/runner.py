"""What a ticket does: claim → prepare → kiln, on one of Celery's threads; ``completer`` does the rest."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from shared.db.group_commit import GroupCommit
from shared.errors import DeviceFault, LeaseLost, Unavailable
from shared.jobs.entities import TRAINING_QUEUE, Job
from worker.attempts.completer import Completer
from worker.attempts.context import WorkerContext
from worker.attempts.held_job import HeldJob, Value
from worker.attempts.preparer import Preparer
from worker.attempts.retry_waits import waits
from worker.attempts.slot_time import Pace
from worker.engines.contract.engine import Stopped, StopReason
from worker.health.watchdog import Busy
from worker.kiln.kiln import Failed, Kiln
from worker.kiln.kiln_job import Checkpoint, Order, Outcome, Preview
from worker.media.encoders import encoder_of

log = logging.getLogger(__name__)

#: seconds between two looks, while no jobs are taken, whether the worker leaves
_LOOK_EVERY = 0.5


class Runner:
    """Runs jobs for tickets. Every collaborator is shared by all slots."""

    def __init__(
        self,
        context: WorkerContext,
        *,
        preparer: Preparer,
        kiln: Kiln,
        pace: Pace,
        completer: Completer,
        busy: Busy,
        device_failed: Failed,
    ) -> None:
        """The watchdog sees in ``busy`` what is prepared. ``device_failed`` has the worker leave, where the
        kiln has not done so."""
        self._worker_id = context.worker_id
        self._leases = context.leases
        self._keeper = context.keeper
        self._preparer = preparer
        self._kiln = kiln
        self._checkpoints = context.checkpoints
        self._scratch = context.scratch
        self._fitness = context.fitness
        self._events = context.events
        self._tickets = context.tickets
        self._pace = pace
        self._completer = completer
        self._slots = threading.BoundedSemaphore(context.settings.slots)
        self._training = threading.BoundedSemaphore(1)
        self._busy = busy
        self._device_failed = device_failed
        #: no more jobs are taken here
        self.leaving = False
        #: why, where that is no ordinary end
        self.trouble: str | None = None
        #: called when the worker takes itself out
        self.retired: Callable[[], None] = lambda: None
        self._claims: GroupCommit[str, Job | None] = GroupCommit(self._claim, turns=context.write_turns)

    def ticket(self, queue: str, claimed: Callable[[Job], None] = lambda _: None) -> None:
        """Run the best job of the queue, if there is one; ``claimed`` is called with it before it runs."""
        try:
            while not self._fitness.wait(_LOOK_EVERY) and not self.leaving:
                continue  # the ticket is kept: sent back, it would come here again at once
            self._run_one(queue, claimed)
        except Unavailable as error:
            log.warning("no job is taken while the database is away: %s", error)
            time.sleep(_LOOK_EVERY)
            self._tickets.send(queue)

    def _run_one(self, queue: str, claimed: Callable[[Job], None]) -> None:
        with self._room(queue) as room:
            if self.leaving:
                self._tickets.send(queue)  # for another worker
                return
            if not room or (job := self._claims.call(queue)) is None:
                return
            claimed(job)
            with self._pace.measured(queue):
                self._run(job)
            if queue == TRAINING_QUEUE:  # tickets that came while the training slot was taken are gone
                self._tickets.send(queue)

    def leave(self, grace: float, hurry: threading.Event) -> None:
        """Take no more jobs. Those that run may end within ``grace`` seconds, or until ``hurry`` is set; then
        they are handed back with a checkpoint. Training is handed back at once: it would not end in time."""
        self.leaving = True
        for held in self._keeper.held():
            if held.job.queue == TRAINING_QUEUE:
                held.stop(StopReason.DRAINING)
        hurry.wait(grace)
        for held in self._keeper.held():
            held.stop(StopReason.DRAINING)

    def retire(self, why: str) -> None:
        """Take no more jobs in this process, because it is not fit for any; those that run go on."""
        if self.trouble is None:
            self.leaving, self.trouble = True, why
            self.retired()

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
        """A job for each ticket of these queues, as far as they go.

        A model that jobs here wait for counts as loaded."""
        # two tenants' models of one name are taken for one: a wrong guess costs a place out of turn at most
        loaded = {model.rpartition("/")[2] for model in self._kiln.models}
        resident = loaded | {held.job.model for held in self._keeper.held()}
        found = {
            queue: iter(self._leases.claim(self._worker_id, queue, limit=count, resident=resident))
            for queue, count in Counter(queues).items()
        }
        return [next(found[queue], None) for queue in queues]

    def _run(self, job: Job) -> None:
        held = HeldJob(job, self._events, self._scratch.begin)
        self._keeper.hold(held)
        held.running()
        try:
            outcome = self._attempt(held)
        except (Exception, Stopped) as error:  # noqa: BLE001 - whatever it is, it ends this job and no other
            outcome = Outcome.of_error(error)
        if isinstance(outcome.error, DeviceFault):
            self._device_failed(outcome.error, (job.id,))  # all jobs go back together: see ``ForcedExit``
        else:
            self._completer.end(held, outcome)

    def _attempt(self, held: HeldJob) -> Outcome:
        """What computing came to. Raises what preparing it raised."""
        kiln_job = self._kiln.submit(self._order(held), held)
        held.in_kiln(kiln_job)
        for notice in kiln_job.notices():
            match notice:
                case Preview(image):
                    with self._busy.at("encoding a preview", held.job.id, blames=True):
                        encoded = encoder_of(image).preview(image)
                    held.preview(encoded)
                case Checkpoint(folder):
                    self._save(held, notice)
                    shutil.rmtree(folder, ignore_errors=True)
        assert kiln_job.outcome is not None
        self._scratch.computed(held.job.id, held.job.attempt)
        return kiln_job.outcome

    def _order(self, held: HeldJob) -> Order:
        """What the kiln shall run. A storage or a database that is away is waited for; raises Unavailable
        when that takes long, and Stopped when the job shall stop meanwhile."""
        job = held.job
        for wait in waits():
            try:
                return self._prepared(held)
            except Unavailable as error:
                log.warning("%s waits for what it needs: %s", job.id, error)
                self._fitness.report(error)
            held.pause(wait)
            if held.reason is not None:
                raise Stopped(held.reason)
            self._scratch.clear(job.id, job.attempt)
        return self._prepared(held)

    def _prepared(self, held: HeldJob) -> Order:
        job = held.job
        with self._busy.at("preparing a job", job.id) as mark:

            def wait(future: Future[Value], /) -> Value:
                with mark.pause():  # what is waited for is watched itself, or has a time limit
                    return held.wait(future)

            scratch = self._scratch.of(job.id, job.attempt)
            order = self._preparer.order(job, scratch, held.progress, wait)
        left = None if job.timeout is None else max(0.0, job.timeout - held.seconds)
        return replace(order, timeout=left)

    def _save(self, held: HeldJob, checkpoint: Checkpoint) -> None:
        if held.lost:
            return
        job = held.job
        try:
            held.has_checkpoint = True
            hold = partial(self._leases.name_checkpoint, self._worker_id, job.id, job.attempt)
            self._checkpoints.save(job.id, job.attempt, checkpoint.folder, hold)
        except LeaseLost:
            held.stop(StopReason.LOST)
        except (Unavailable, OSError) as error:
            log.warning("%s: no checkpoint, its last one holds: %s", job.id, error)
            self._fitness.report(error)
