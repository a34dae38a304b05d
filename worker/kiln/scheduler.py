"""The engine thread: takes jobs in, and gives turns to those whose models are loaded, until all have ended.

Decide, compute, let go on: whose turn it is says ``decide``, calls are computed by ``forwards``, and which
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
        self._firings: list[KilnJob] = []
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
            if not self._firings and self._inbox.is_done:
                break
            self._load_next()
            if ready := [firing for firing in self._firings if self._is_ready(firing)]:
                self._next_turn(ready)
            else:
                self.turn = None
                self._inbox.wait(self._is_awaited)
        self.turn = None
        self._threads.end()
        self._models.clear()

    def _take_in(self) -> None:
        arrived, loaded = self._inbox.take()
        self._firings += arrived
        for firing in arrived:
            self._models.tell(firing)
        for one in loaded:
            waiting = [each for each in self._firings if each.order.model_key == one.firing.order.model_key]
            if (error := self._models.enter(one, waiting)) is not None:
                self._last = (one.firing.order.work.job_id, *self._last)
                for firing in waiting:
                    self._end(firing, Outcome.of_error(error, one.seconds))

    def _load_next(self) -> None:
        self._has_cores = self._has_cores or claim_cores()
        waiting = [one for one in self._firings if one.thread is None and one.shall_stop is None]
        running = any((one.thread or one.pinned) and not one.order.background for one in self._firings)
        self._models.load_next(waiting, running=running)

    def _is_ready(self, firing: KilnJob) -> bool:
        return firing.thread is not None or firing.shall_stop is not None or self._models.has(firing)

    def _is_awaited(self) -> bool:
        """Whether an engine thread without a job to run has something to do all the same."""
        if not self._firings:
            return self._inbox.is_done
        return any(firing.shall_stop for firing in self._firings)

    def _next_turn(self, ready: list[KilnJob]) -> None:
        if len(ready) == 1:  # nothing to decide, and a lone job's steps are not to wait for it
            self._spent = Spent()
            self._take_turn(ready, stopping=ready[0].shall_stop is not None)
            return
        candidates = [self._candidate(firing) for firing in ready]
        firings = {firing.arrived: firing for firing in ready}
        began = time.monotonic()
        if sum(not candidate.background for candidate in candidates) >= self._crowd:
            self._full_until = began + _FULL_FOR
        chosen = next_turn(candidates, self._spent, full=began < self._full_until)
        self._take_turn([firings[one.arrived] for one in chosen], stopping=chosen[0].stopping)
        self._spent = self._spent.after(chosen[0], time.monotonic() - began, candidates)

    def _candidate(self, firing: KilnJob) -> Candidate:
        call, order = firing.call, firing.order
        waiting = None
        if call is not None:
            key = None if call.key is None else (id(call.point), call.key)
            waiting = Waiting(key, call.rows, call.looped, self._forwards.costs(call, order.model_key))
        return Candidate(
            order.work.job_id,
            firing.arrived,
            order.model_key,
            background=order.background,
            stopping=firing.shall_stop is not None,
            begun=firing.thread is not None,
            apart=bool(order.apart),
            waiting=waiting,
        )

    def _take_turn(self, chosen: list[KilnJob], *, stopping: bool) -> None:
        self.turn = None  # whoever holds ``computing`` now is at a step of its own
        with self._computing:
            self.turn = Turn(time.monotonic(), chosen)
            self._turn(chosen, stopping=stopping)
        self._last = [firing.order.work.job_id for firing in chosen]

    def _turn(self, chosen: list[KilnJob], *, stopping: bool) -> None:
        """Compute the call at which these jobs wait, if they do, and let each go on to its next boundary."""
        calls = [firing.call for firing in chosen if firing.call is not None]
        if calls and not stopping:
            model = chosen[0].order.model_key
            for firing, answer in zip(chosen, self._forwards.compute(calls, model), strict=True):
                firing.answer = answer
        failed = any(firing.answer and firing.answer.error for firing in chosen)
        for firing in chosen:
            # what was computed together failed by any of them; from here on each is at its own
            self.turn = Turn(time.monotonic(), chosen if failed else (firing,))
            self._go_on(firing)

    def _go_on(self, firing: KilnJob) -> None:
        if firing.thread is None:
            try:
                self._start(firing)
            except (Exception, Stopped) as error:  # noqa: BLE001 - whoever ordered the job gets it
                self._end(firing, Outcome.of_error(error))
                return
        assert firing.thread is not None
        if firing.thread.give():
            self._threads.keep(firing.thread)
            self._models.unpin(firing)
            assert firing.computed is not None
            self._end(firing, firing.computed)

    def _start(self, firing: KilnJob) -> None:
        if (reason := firing.shall_stop) is not None:
            raise Stopped(reason)
        firing.watcher.begun()
        loaded = self._models.pin(firing)
        firing.run_clock()
        try:
            firing.begin(Body(firing, loaded, self._device), self._threads)
        except Stopped:
            self._models.unpin(firing)  # what was loaded is there for others
            raise

    def _end(self, firing: KilnJob, outcome: Outcome) -> None:
        self._firings.remove(firing)
        self._models.let_go(firing)
        if self._profiles is not None:
            self._profiles.save(firing.order.model_key)
        if isinstance(outcome.error, OutOfMemory):
            self._models.clear()  # the next attempt shall find what room there can be
        if isinstance(outcome.error, DeviceFault) and self._fault is None:
            self._fault = outcome.error
            self._failed(outcome.error, self._suspects())
        firing.end(outcome)

    def _suspects(self) -> list[str]:
        """Which jobs may have made the device fail: those whose turn it is. A GPU computes after it was told
        to, so that it may have been those of the turn before."""
        firings = self.turn.firings if self.turn is not None else ()
        turn = [firing.order.work.job_id for firing in firings]
        return turn if turn and self._device.name == "cpu" else [*turn, *self._last]

    def _give_up(self, fault: DeviceFault) -> None:
        """End every job: what a device that failed for good computes is wrong, or fails as well."""
        for firing in self._firings:
            firing.end(Outcome(error=fault))
        self._firings.clear()
