"""The kiln as the worker sees it: submit a job from any thread, and see what is loaded and computed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection

from worker.engines.contract.engine import Device
from worker.health.watchdog import Step
from worker.kiln.cost_profile import CostProfiles
from worker.kiln.forwards import Forwards
from worker.kiln.inbox import Inbox
from worker.kiln.kiln_job import KilnJob, Order, Watcher
from worker.kiln.loading import Loader, Turns
from worker.kiln.models import Models
from worker.kiln.scheduler import Scheduler
from worker.kiln.steps import engine_step, loader_step

log = logging.getLogger(__name__)

#: hears what ended this kiln for good, and which jobs may be why
Failed = Callable[[BaseException, Collection[str]], None]


class Kiln:
    """Owns one device: its engine thread, and the thread that loads models beside it."""

    def __init__(
        self,
        device: Device,
        budget: int,
        *,
        slots: int = 8,
        profiles: CostProfiles | None = None,
        failed: Failed = lambda _error, _jobs: None,
    ) -> None:
        """``budget``: bytes for models and what their calls take besides; ``slots``: jobs that the
        foreground is given at once. ``failed`` is called once, where the device or the engine thread failed
        for good; all jobs, those to come included, then end with a DeviceFault.

        With ``profiles``, jobs share as far as it was measured to pay; without, as far as they can."""
        self._inbox = Inbox()
        computing = Turns()
        self._loader = Loader(device, self._inbox.put, computing)
        peak = (lambda _: 0) if profiles is None else profiles.peak
        self._models = Models(device, budget, self._loader.load, peak)
        self._forwards = Forwards(device, self._models, profiles)
        self._failed = failed
        self._scheduler = Scheduler(
            device, slots, self._inbox, self._models, self._forwards, profiles, computing, failed
        )
        self._thread = threading.Thread(target=self._run_engine_thread, name="kiln", daemon=True)
        self._thread.start()

    def submit(self, order: Order, watcher: Watcher) -> KilnJob:
        """Compute a job when its turn comes. Raises QanvasError once the kiln is closed."""
        return self._inbox.submit(order, watcher)

    @property
    def models(self) -> tuple[str, ...]:
        """Ids of the loaded models, most recently used last."""
        return self._models.names

    @property
    def loading(self) -> str | None:
        """The id of the model that is being loaded."""
        return self._models.loading

    @property
    def memory(self) -> dict[str, int]:
        """Bytes: what models may keep, and what they do keep."""
        return self._models.memory

    @property
    def forwards(self) -> dict[str, int]:
        """How calls were computed since the worker started; see ``Forwards.counts``."""
        return dict(self._forwards.counts)

    def close(self, timeout: float | None = None) -> None:
        """Take no more jobs, and wait until those that are in have ended (the caller stops them)."""
        self._inbox.close()
        self._thread.join(timeout)

    def steps(self) -> list[Step]:
        """What the engine thread and the loader's are at, for the watchdog."""
        found = (engine_step(self._scheduler.turn, self._thread.native_id or 0), loader_step(self._loader))
        return [step for step in found if step is not None]

    def _run_engine_thread(self) -> None:
        try:
            self._scheduler.run()
        except BaseException as error:
            log.exception("the engine thread ended")
            self._failed(error, ())
            raise
        self._loader.end()
