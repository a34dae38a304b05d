"""The engine thread: gives turns to jobs, and keeps their models loaded while the budget lasts."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from pathlib import Path

from shared.errors import OutOfMemory, QanvasError
from worker.engines.base import Device, Progress, Stopped
from worker.kiln.baton import JobThreads
from worker.kiln.costs import Costs
from worker.kiln.decide import Candidate, Spent, Waiting, next_turn
from worker.kiln.devices import release_memory
from worker.kiln.firing import Firing, JobContext, Order, Outcome, Watcher
from worker.kiln.forwards import Forwards
from worker.kiln.residency import Residency, Resident

log = logging.getLogger(__name__)


class Kiln:
    """Owns one device. ``submit`` from any thread; everything else happens on the engine thread, or on the
    one job's thread that it has given the baton to."""

    def __init__(self, device: Device, budget: int, *, slots: int = 8) -> None:
        """``budget``: bytes that models may keep; ``slots``: jobs that the foreground is given at once."""
        self.device = device
        self._slots = slots
        self._residency = Residency(budget)
        self._forwards = Forwards(lambda: self._evict(down_to=0))
        self._threads = JobThreads()
        self._firings: list[Firing] = []
        self._spent = Spent()
        self._arriving: deque[Firing] = deque()
        self._arrived = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._fire, name="kiln", daemon=True)
        self._thread.start()

    def submit(self, order: Order, watcher: Watcher) -> Firing:
        """Compute a job when its turn comes. Raises QanvasError once the kiln is closed."""
        with self._changed:
            if self._closed:
                raise QanvasError("this worker is leaving; the job goes on elsewhere")
            self._arrived += 1
            firing = Firing(order, watcher, self._arrived)
            self._arriving.append(firing)
            self._changed.notify()
        return firing

    @property
    def models(self) -> tuple[str, ...]:
        """Ids of the loaded models, most recently used last."""
        return self._residency.names

    @property
    def memory(self) -> dict[str, int]:
        """Bytes: what models may keep, and what they do keep."""
        return {"budget": self._residency.budget, "models": self._residency.used}

    @property
    def forwards(self) -> dict[str, int]:
        """How calls were computed since the worker started; see ``Forwards.counts``."""
        return dict(self._forwards.counts)

    def close(self, timeout: float | None = None) -> None:
        """Take no more jobs, and wait until those that are in have ended (the caller stops them)."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _fire(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._arriving or self._firings or self._closed)
                while self._arriving:
                    self._firings.append(self._arriving.popleft())
            if not self._firings:
                break
            candidates = [self._candidate(firing) for firing in self._firings]
            firings = {firing.arrived: firing for firing in self._firings}
            full = sum(not candidate.background for candidate in candidates) >= self._slots
            chosen = next_turn(candidates, self._spent, full=full)
            began = time.monotonic()
            self._turn([firings[one.arrived] for one in chosen], stopping=chosen[0].stopping)
            self._spent = self._spent.after(chosen[0], time.monotonic() - began, candidates)
        self._threads.end()
        self._evict(down_to=0)

    def _candidate(self, firing: Firing) -> Candidate:
        call, order = firing.call, firing.order
        waiting = None
        if call is not None:
            key = None if call.key is None else (id(call.point), call.key)
            costs = Costs(most=self._forwards.most_rows(call))
            waiting = Waiting(key, call.rows, call.looped, costs)
        return Candidate(
            order.work.job_id,
            firing.arrived,
            order.model_key,
            background=order.background,
            stopping=firing.shall_stop is not None,
            begun=firing.thread is not None,
            apart=order.apart,
            waiting=waiting,
        )

    def _turn(self, chosen: list[Firing], *, stopping: bool) -> None:
        """Compute the call at which these jobs wait, if they do, and let each go on to its next boundary."""
        calls = [firing.call for firing in chosen if firing.call is not None]
        if calls and not stopping:
            for firing, answer in zip(chosen, self._forwards.compute(calls), strict=True):
                firing.answer = answer
        for firing in chosen:
            self._go_on(firing)

    def _go_on(self, firing: Firing) -> None:
        if firing.thread is None:
            try:
                self._start(firing)
            except (Exception, Stopped) as error:  # noqa: BLE001 - whoever ordered the job gets it
                self._end(firing, Outcome.of_error(error))
                return
        assert firing.thread is not None
        if firing.thread.give():
            self._threads.keep(firing.thread)
            self._residency.unpin(firing.order.model_key)
            assert firing.computed is not None
            self._end(firing, firing.computed)

    def _start(self, firing: Firing) -> None:
        if (reason := firing.shall_stop) is not None:
            raise Stopped(reason)
        firing.watcher.begun()
        order = firing.order
        resident = self._residency.pin(order.model_key)
        if resident is None:
            firing.watcher.progress(Progress("load", 0))
            began = time.monotonic()
            resident = self._load(order)
            firing.load_seconds = time.monotonic() - began
        if order.timeout is not None:
            firing.deadline = time.monotonic() + order.timeout
        try:
            firing.begin(_Body(firing, resident.loaded, self.device), self._threads)
        except Stopped:
            self._residency.unpin(order.model_key)  # what was loaded is there for others
            raise

    def _end(self, firing: Firing, outcome: Outcome) -> None:
        self._firings.remove(firing)
        if isinstance(outcome.error, OutOfMemory):
            self._evict(down_to=0)  # the next attempt shall find what room there can be
        firing.end(outcome)

    def _load(self, order: Order) -> Resident:
        """Load a model, pinned. Raises what ``Engine.load`` raises; out of memory only after a second try."""
        self._evict(down_to=max(0, self._residency.budget - _weights(order.folder)))
        full = False
        try:
            loaded = order.engine.load(order.model, order.folder, self.device)
        except OutOfMemory:
            full = True  # the second try is outside this block: in it, the error still holds what was loaded
        if full:
            log.warning("out of memory while loading %s; again without idle models", order.model.id)
            self._evict(down_to=0)
            loaded = order.engine.load(order.model, order.folder, self.device)
        resident = self._residency.add(order.model_key, order.model.id, loaded, order.engine.nbytes(loaded))
        self._evict(down_to=self._residency.budget)  # the estimate may have been too low
        return resident

    def _evict(self, *, down_to: int) -> bool:
        """Free idle models; whether there were any to free."""
        evicted = [resident.name for resident in self._residency.evict_idle(down_to)]
        if evicted:
            log.info("evicted %s", ", ".join(evicted))
            release_memory(self.device)
        return bool(evicted)


class _Body:
    """What a job's thread runs: the engine, and nothing it raises escapes."""

    def __init__(self, firing: Firing, loaded: object, device: Device) -> None:
        self._firing, self._loaded, self._device = firing, loaded, device

    def __call__(self) -> None:
        firing = self._firing
        order = firing.order
        try:
            result = order.engine.run(self._loaded, order.work, JobContext(firing, self._device))
            firing.computed = Outcome(result=result, load_seconds=firing.load_seconds)
        except BaseException as error:  # noqa: BLE001 - whoever ordered the job gets it
            firing.computed = Outcome.of_error(error, firing.load_seconds)


def _weights(folder: Path | None) -> int:
    """Bytes of the weight files: about what the model will take when it is loaded."""
    return 0 if folder is None else sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
