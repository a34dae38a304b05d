"""What a worker watches of itself, and what it does about what it finds."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection

from shared.errors import DeviceFault
from shared.exit_codes import START_AGAIN
from worker.attempts.lease_renewal import LeaseRenewer
from worker.health.watchdog import Busy, Step, Watchdog
from worker.kiln.kiln import Kiln
from worker.services.forced_exit import LOG, ForcedExit, tell, within

log = logging.getLogger(__name__)


class SelfCheck:
    """The watchdog of a worker, from before its parts are made until they are closed."""

    def __init__(self, seconds: float) -> None:
        """``seconds`` without progress are a hang."""
        self.busy = Busy()
        self._seconds = seconds
        self._kiln: Kiln | None = None
        self._keeper: LeaseRenewer | None = None
        self._forced_exit: ForcedExit | None = None
        self._dog = Watchdog(seconds, self._steps, self._hung, self._hear_deadlines)

    def start(self) -> None:
        """Watch what ``busy`` tells of from now on."""
        self._dog.start()

    def keep(self, kiln: Kiln, keeper: LeaseRenewer, forced_exit: ForcedExit) -> None:
        """Watch the kiln too; there is something to hand back from now on."""
        self._kiln, self._keeper, self._forced_exit = kiln, keeper, forced_exit

    def close(self) -> None:
        self._dog.close()

    def device_failed(self, error: BaseException, suspects: Collection[str]) -> None:
        """The device, or the engine thread, computes nothing more. The attempts of the suspects count."""
        fault = f"device failed ({error.said})" if isinstance(error, DeviceFault) else "engine thread failed"
        if self._forced_exit is not None and self._forced_exit.leave(f"left because its {fault}", suspects):
            log.error("%s; it was the turn of %s", error, ", ".join(suspects) or "no job")

    def _steps(self) -> list[Step]:
        return [*self.busy.steps(), *(self._kiln.steps() if self._kiln is not None else ())]

    def _hear_deadlines(self) -> None:
        if self._keeper is not None:
            for held in self._keeper.held():
                held.hear_deadline()

    def _hung(self, steps: Collection[Step]) -> None:
        for step in steps:
            if step.abandon is not None:
                log.error("%s has made no progress for %g s and is given up", step.what, self._seconds)
                step.abandon()
        if not (hanging := [step for step in steps if step.abandon is None]):
            return
        why = f"hung ({hanging[0].what} made no progress for {self._seconds:g} s)"
        if self._forced_exit is not None:
            charged = {job for step in hanging if step.blames for job in step.jobs}
            self._forced_exit.leave(why, charged, {job for step in hanging for job in step.jobs})
            return
        within(LOG, lambda: tell(f"this worker {why}; it ends"))
        os._exit(START_AGAIN)
