"""How a worker exits that cannot go on in this process: a thread of it hangs, or its device failed for good.

The ordinary shutdown waits for every job and takes locks that a thread that hangs may hold. Here all jobs are
handed back, as far as that is possible within seconds, and then the process ends whatever its threads do.
What could not be handed back is taken over when its lease runs out.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from shared.errors import Unavailable
from shared.exit_codes import START_AGAIN
from shared.jobs.entities import Finish, Job
from worker.attempts.announcement import announce
from worker.attempts.completer import stopped
from worker.attempts.context import WorkerContext
from worker.attempts.held_job import HeldJob
from worker.engines.contract.engine import StopReason

log = logging.getLogger(__name__)

#: seconds for the log, for what was computed to be stored, and for handing back; each may hang as well
LOG, _STORE, _HAND_BACK = 2.0, 5.0, 10.0


class ForcedExit:
    """Leaves once; further calls do nothing."""

    def __init__(
        self,
        context: WorkerContext,
        *,
        retire: Callable[[str], None],
        storing: Callable[[], bool],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """``retire`` has the worker take no more jobs, and say why; ``storing`` tells whether some job only
        has to be stored, and can be; ``end`` ends the process."""
        self._worker_id = context.worker_id
        self._leases = context.leases
        self._reaper = context.reaper
        self._keeper = context.keeper
        self._scratch = context.scratch
        self._leftovers = context.leftovers
        self._events = context.events
        self._tickets = context.tickets
        self._retire = retire
        self._storing = storing
        self._end = end
        self._once = threading.Lock()

    def leave(self, why: str, charged: Collection[str], stuck: Collection[str] = ()) -> bool:
        """Begin to leave; returns at once, False where that has begun before.

        The attempts of ``charged`` jobs count, those of others do not; the ``stuck`` ones whose time-out has
        run out end with that. ``why`` follows the worker's name, and everybody may read it: no ids, no names
        of models."""
        if begins := self._once.acquire(blocking=False):
            threading.Thread(
                target=self._leave, args=(why, charged, stuck), name="forced exit", daemon=True
            ).start()
        return begins

    def _leave(self, why: str, charged: Collection[str], stuck: Collection[str]) -> None:
        within(LOG, lambda: self._retire(why))
        within(LOG, lambda: tell(f"worker {self._worker_id} {why}; it ends, and hands back: {self._held()}"))
        within(_HAND_BACK + _STORE, lambda: self._hand_back(why, charged, stuck))
        self._end(START_AGAIN)

    def _held(self) -> str:
        return ", ".join(held.job.id for held in self._keeper.held()) or "no job"

    def _hand_back(self, why: str, charged: Collection[str], stuck: Collection[str]) -> None:
        self._scratch.suspect_only(charged)  # should the rest not be possible, a successor finds these
        with suppress(Unavailable):
            self._keeper.say()
        until = time.monotonic() + _STORE
        while self._storing() and time.monotonic() < until:
            time.sleep(0.05)
        self._keeper.ask_to_stop()
        try:
            late = [held for held in self._keeper.held() if held.job.id in stuck and held.is_late]
            self._fail(late)
            self._take_back(why, charged)
            self._take_back(why, charged)  # what was just being claimed
        except Unavailable as error:
            log.error("jobs are not handed back, their leases run out: %s", error)
        # both send on threads of their own
        self._tickets.close()
        self._events.close()

    def _fail(self, late: Sequence[HeldJob]) -> None:
        """End the jobs whose time-out had run out."""
        for held in late:
            failed = stopped(held.job, StopReason.DEADLINE)
            assert failed is not None
            [ended] = self._leases.finish([Finish(held.job.id, held.job.attempt, failed)])
            if isinstance(ended, Job):
                announce(self._events, ended)

    def _take_back(self, why: str, charged: Collection[str]) -> None:
        back = self._reaper.reap_worker(self._worker_id, charged, why=why)
        for job in back:
            announce(self._events, job)
            if not job.is_terminal:
                self._tickets.send(job.queue)
        for job in back:
            self._leftovers.of_attempt(job.id, job.attempt)


def within(seconds: float, act: Callable[[], object]) -> None:
    """Do it on a thread of its own, and go on after so many seconds though it may not have ended."""

    def guarded() -> None:
        try:
            act()
        except Exception:
            log.exception("leaving goes on")

    thread = threading.Thread(target=guarded, name="forced exit, a part", daemon=True)
    thread.start()
    thread.join(seconds)


def tell(last_words: str) -> None:
    """Write to the log why the process ends, and to standard error where each of its threads is."""
    log.critical("%s", last_words)
    with suppress(ValueError, OSError, AttributeError):  # no file behind it
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
