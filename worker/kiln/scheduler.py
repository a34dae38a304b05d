"""The engine thread: takes jobs in, and gives turns to those whose models are loaded, until all have ended.

Decide, compute, let go on: whose turn it is says ``policy``, calls are computed by ``forwards``, and which
models are loaded is ``models``' business.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence

from shared.errors import DeviceFault, OutOfMemory
from worker.engines.contract.engine import Device, Stopped
from worker.kiln.baton import JobThreads
from worker.kiln.context import Body
from worker.kiln.cost_profile import CostProfiles
from worker.kiln.cpu_threads import claim_cores
from worker.kiln.forwards import Forwards
from worker.kiln.inbox import Inbox
from worker.kiln.kiln_job import KilnJob, Outcome
from worker.kiln.loading import Turns
from worker.kiln.models import Models
from worker.kiln.policy import Candidate, Spent, Waiting, next_turn
from worker.kiln.steps import Turn

#: the part of the slots that, once taken, says that more jobs come than are served
_CROWDED = 2 / 3
#: a place that was freed is about to be taken again: for so many seconds the worker still counts as full
_FULL_FOR = 0.5


class Scheduler:
    """Engine thread only."""

    def __init__(
        self,
        device: Device,
        slots: int,
        inbox: Inbox,
        models: Models,
        forwards: Forwards,
        profiles: CostProfiles | None,
        computing: Turns,
        failed: Callable[[DeviceFault, Collection[str]], None],
    ) -> None:
        """``slots``: jobs that the foreground is given at once; ``computing`` is held during each turn.
        ``failed`` is called with what says that the device failed for good, and the jobs that may be why."""
        self._device = device
        self._crowd = math.ceil(_CROWDED * slots)
        self._inbox = inbox
        self._models = models
        self._forwards = forwards
        self._profiles = profiles
        self._computing = computing
        self._failed = failed
        self._fault: DeviceFault | None = None
        #: what this thread is at, None while it waits for something to do; any thread may read it
        self.turn: Turn | None = None
        #: ids of the jobs whose turn it was last
        self._last: Sequence[str] = ()
        self._threads = JobThreads()
        self._kiln_jobs: list[KilnJob] = []
        self._spent = Spent()
        self._full_until = 0.0
        self._has_cores = False

    def run(self) -> None:
        """Return once the inbox is closed and every job has ended."""
        while True:
            self.turn = Turn(time.monotonic())
            self._take_in()
            if self._fault is not None:
                self._give_up(self._fault)
            if not self._kiln_jobs and self._inbox.is_done:
                break
            self._load_next()
            if ready := [kiln_job for kiln_job in self._kiln_jobs if self._is_ready(kiln_job)]:
                self._next_turn(ready)
            else:
                self.turn = None
                self._inbox.wait(self._is_awaited)
        self.turn = None
        self._threads.end()
        self._models.clear()

    def _take_in(self) -> None:
        arrived, loaded = self._inbox.take()
        self._kiln_jobs += arrived
        for kiln_job in arrived:
            self._models.tell(kiln_job)
        for one in loaded:
            waiting = [
                each for each in self._kiln_jobs if each.order.model_key == one.kiln_job.order.model_key
            ]
            if (error := self._models.enter(one, waiting)) is not None:
                self._last = (one.kiln_job.order.work.job_id, *self._last)
                for kiln_job in waiting:
                    self._end(kiln_job, Outcome.of_error(error, one.seconds))

    def _load_next(self) -> None:
        self._has_cores = self._has_cores or claim_cores()
        waiting = [one for one in self._kiln_jobs if one.thread is None and one.shall_stop is None]
        running = any((one.thread or one.pinned) and not one.order.background for one in self._kiln_jobs)
        self._models.load_next(waiting, running=running)

    def _is_ready(self, kiln_job: KilnJob) -> bool:
        return kiln_job.thread is not None or kiln_job.shall_stop is not None or self._models.has(kiln_job)

    def _is_awaited(self) -> bool:
        """Whether an engine thread without a job to run has something to do all the same."""
        if not self._kiln_jobs:
            return self._inbox.is_done
        return any(kiln_job.shall_stop for kiln_job in self._kiln_jobs)

    def _next_turn(self, ready: list[KilnJob]) -> None:
        if len(ready) == 1:  # nothing to decide, and a lone job's steps are not to wait for it
            self._spent = Spent()
            self._take_turn(ready, stopping=ready[0].shall_stop is not None)
            return
        candidates = [self._candidate(kiln_job) for kiln_job in ready]
        kiln_jobs = {kiln_job.arrived: kiln_job for kiln_job in ready}
        began = time.monotonic()
        if sum(not candidate.background for candidate in candidates) >= self._crowd:
            self._full_until = began + _FULL_FOR
        chosen = next_turn(candidates, self._spent, full=began < self._full_until)
        self._take_turn([kiln_jobs[one.arrived] for one in chosen], stopping=chosen[0].stopping)
        self._spent = self._spent.after(chosen[0], time.monotonic() - began, candidates)

    def _candidate(self, kiln_job: KilnJob) -> Candidate:
        call, order = kiln_job.call, kiln_job.order
        waiting = None
        if call is not None:
            key = None if call.key is None else (id(call.point), call.key)
            waiting = Waiting(key, call.rows, call.looped, self._forwards.costs(call, order.model_key))
        return Candidate(
            order.work.job_id,
            kiln_job.arrived,
            order.model_key,
            background=order.background,
            stopping=kiln_job.shall_stop is not None,
            begun=kiln_job.thread is not None,
            apart=bool(order.apart),
            waiting=waiting,
        )

    def _take_turn(self, chosen: list[KilnJob], *, stopping: bool) -> None:
        self.turn = None  # whoever holds ``computing`` now is at a step of its own
        with self._computing:
            self.turn = Turn(time.monotonic(), chosen)
            self._turn(chosen, stopping=stopping)
        self._last = [kiln_job.order.work.job_id for kiln_job in chosen]

    def _turn(self, chosen: list[KilnJob], *, stopping: bool) -> None:
        """Compute the call at which these jobs wait, if they do, and let each go on to its next boundary."""
        calls = [kiln_job.call for kiln_job in chosen if kiln_job.call is not None]
        if calls and not stopping:
            model = chosen[0].order.model_key
            for kiln_job, answer in zip(chosen, self._forwards.compute(calls, model), strict=True):
                kiln_job.answer = answer
        failed = any(kiln_job.answer and kiln_job.answer.error for kiln_job in chosen)
        for kiln_job in chosen:
            # what was computed together failed by any of them; from here on each is at its own
            self.turn = Turn(time.monotonic(), chosen if failed else (kiln_job,))
            self._go_on(kiln_job)

    def _go_on(self, kiln_job: KilnJob) -> None:
        if kiln_job.thread is None:
            try:
                self._start(kiln_job)
            except (Exception, Stopped) as error:  # noqa: BLE001 - whoever ordered the job gets it
                self._end(kiln_job, Outcome.of_error(error))
                return
        assert kiln_job.thread is not None
        if kiln_job.thread.give():
            self._threads.keep(kiln_job.thread)
            self._models.unpin(kiln_job)
            assert kiln_job.computed is not None
            self._end(kiln_job, kiln_job.computed)

    def _start(self, kiln_job: KilnJob) -> None:
        if (reason := kiln_job.shall_stop) is not None:
            raise Stopped(reason)
        kiln_job.watcher.begun()
        loaded = self._models.pin(kiln_job)
        kiln_job.run_clock()
        try:
            kiln_job.begin(Body(kiln_job, loaded, self._device), self._threads)
        except Stopped:
            self._models.unpin(kiln_job)  # what was loaded is there for others
            raise

    def _end(self, kiln_job: KilnJob, outcome: Outcome) -> None:
        self._kiln_jobs.remove(kiln_job)
        self._models.let_go(kiln_job)
        if self._profiles is not None:
            self._profiles.save(kiln_job.order.model_key)
        if isinstance(outcome.error, OutOfMemory):
            self._models.clear()  # the next attempt shall find what room there can be
        if isinstance(outcome.error, DeviceFault) and self._fault is None:
            self._fault = outcome.error
            self._failed(outcome.error, self._suspects())
        kiln_job.end(outcome)

    def _suspects(self) -> list[str]:
        """Which jobs may have made the device fail: those whose turn it is. A GPU computes after it was told
        to, so that it may have been those of the turn before."""
        kiln_jobs = self.turn.kiln_jobs if self.turn is not None else ()
        turn = [kiln_job.order.work.job_id for kiln_job in kiln_jobs]
        return turn if turn and self._device.name == "cpu" else [*turn, *self._last]

    def _give_up(self, fault: DeviceFault) -> None:
        """End every job: what a device that failed for good computes is wrong, or fails as well."""
        for kiln_job in self._kiln_jobs:
            kiln_job.end(Outcome(error=fault))
        self._kiln_jobs.clear()
