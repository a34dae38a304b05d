"""The models of one device: which are loaded, which is loaded next, and which leave for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from shared.errors import OutOfMemory
from worker.engines.contract.engine import Device, Progress
from worker.kiln.devices import release_memory
from worker.kiln.kiln_job import KilnJob
from worker.kiln.loading import Loaded
from worker.kiln.model_cache import ModelCache

log = logging.getLogger(__name__)


class Models:
    """Implements ``Room``. Engine thread only; ``names``, ``memory`` and ``loading`` may be read by any."""

    def __init__(
        self, device: Device, budget: int, load: Callable[[KilnJob, int], None], peak: Callable[[str], int]
    ) -> None:
        """``load`` begins to load the model of a job into so many bytes, what comes of it is given to
        ``enter``; ``peak`` tells how many bytes a job of a model takes beside the weights, 0 where nobody
        knows."""
        self._device = device
        self._load = load
        self._peak = peak
        self._residency = ModelCache(budget)
        #: the job whose model is loaded now
        self._loading: KilnJob | None = None
        self._once_more = False  # this load is the second try
        self._held_up: int | None = None  # jobs that came later begin after the one that waits for room

    @property
    def names(self) -> tuple[str, ...]:
        """The loaded models as ``Model.known_as``, most recently used last."""
        return self._residency.names

    @property
    def loading(self) -> str | None:
        """The model that is being loaded, as ``Model.known_as``."""
        kiln_job = self._loading
        return None if kiln_job is None else kiln_job.order.model.known_as

    @property
    def memory(self) -> dict[str, int]:
        """Bytes: what models may keep, and what they do keep."""
        return {"budget": self._residency.budget, "models": self._residency.used}

    @property
    def free(self) -> int:
        return self._residency.budget - self._residency.used

    def make(self, nbytes: int) -> None:
        self._evict(down_to=self._residency.budget - nbytes)

    def clear(self) -> bool:
        return self._evict(down_to=0)

    def has(self, kiln_job: KilnJob) -> bool:
        """Whether the job's model is loaded and the job need not let one before it go first."""
        waits_behind = self._held_up is not None and kiln_job.arrived > self._held_up
        return kiln_job.order.model_key in self._residency and not waits_behind

    def pin(self, kiln_job: KilnJob) -> Any:
        """The loaded model of a job that begins; it stays until ``unpin``."""
        resident = self._residency.pin(kiln_job.order.model_key)
        assert resident is not None
        self.let_go(kiln_job)
        return resident.loaded

    def unpin(self, kiln_job: KilnJob) -> None:
        """The job has ended."""
        self._residency.unpin(kiln_job.order.model_key)

    def let_go(self, kiln_job: KilnJob) -> None:
        """The job needs no more that its model is kept until it begins."""
        if kiln_job.pinned:
            kiln_job.pinned = False
            self._residency.unpin(kiln_job.order.model_key)

    def load_next(self, waiting: Sequence[KilnJob], *, running: bool) -> None:
        """Load what the first job needs that waits for a model, once there is room; ``running``: others
        compute, or are about to, and it need not be now."""
        if self._loading is not None:
            return
        self._held_up = None
        missing = [kiln_job for kiln_job in waiting if kiln_job.order.model_key not in self._residency]
        if not missing:
            return
        first = min(missing, key=lambda kiln_job: kiln_job.arrived)
        peak = max(map(self._peak, (first.order.model_key, *self._residency.running)))
        down_to = self._residency.room_for(_weights(first.order.folder), peak, beside=running)
        if down_to is None:
            self._held_up = first.arrived
            return
        self._evict(down_to=down_to)
        self._ask(first)
        for kiln_job in missing:
            self.tell(kiln_job)

    def tell(self, kiln_job: KilnJob) -> None:
        """Tell a job that its model is being loaded, if it is: its time-out counts meanwhile."""
        if self._loading is not None and kiln_job.order.model_key == self._loading.order.model_key:
            kiln_job.run_clock()
            kiln_job.watcher.progress(Progress("load", 0))

    def enter(self, loaded: Loaded, waiting: Sequence[KilnJob]) -> Exception | None:
        """Keep a model that was loaded. The error, where there is one, is what the jobs that wait for the
        model end with; out of memory is tried again first."""
        order = loaded.kiln_job.order
        full = isinstance(loaded.error, OutOfMemory) and not self._once_more
        self._once_more = full
        if full:
            log.warning("out of memory while loading %s; again without idle models", order.model.id)
            self.clear()
            self._ask(loaded.kiln_job)
            return None
        self._loading = None
        if loaded.error is not None:
            return loaded.error
        self._residency.add(order.model_key, order.model.known_as, loaded.model, loaded.nbytes)
        loaded.kiln_job.load_seconds = loaded.seconds
        loaded.kiln_job.pinned = True
        if loaded.kiln_job not in waiting:
            self.let_go(loaded.kiln_job)
        for kiln_job in waiting:
            kiln_job.stop_clock()
            kiln_job.watcher.progress(Progress("ready", 0))
        self.make(self._peak(order.model_key))  # what was expected of its size may have been too low
        return None

    def _ask(self, kiln_job: KilnJob) -> None:
        self._loading = kiln_job
        kiln_job.watcher.begun()
        self._load(kiln_job, max(1, self._residency.budget - self._peak(kiln_job.order.model_key)))

    def _evict(self, *, down_to: int) -> bool:
        """Free idle models; whether there were any to free."""
        evicted = [resident.name for resident in self._residency.evict_idle(down_to)]
        if evicted:
            log.info("evicted %s", ", ".join(evicted))
            release_memory(self._device)
        return bool(evicted)


@lru_cache(maxsize=256)  # asked at every turn while a model waits for room
def _weights(folder: Path | None) -> int:
    """Bytes of the weight files: about what the model will take when it is loaded."""
    return 0 if folder is None else sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
