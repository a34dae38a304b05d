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
from worker.kiln.decide import Candidate, Spent, Waiting, next_turn
from worker.kiln.devices import release_memory, settle
from worker.kiln.firing import Firing, JobContext, Order, Outcome, Watcher
from worker.kiln.forwards import Forwards
from worker.kiln.loading import Loaded, Loader, Turns
from worker.kiln.profiles import Profiles
from worker.kiln.residency import Residency

log = logging.getLogger(__name__)


class Kiln:
    """Owns one device. ``submit`` from any thread; everything else happens on the engine thread, or on the
    one job's thread that it has given the baton to."""

    def __init__(
        self, device: Device, budget: int, *, slots: int = 8, profiles: Profiles | None = None
    ) -> None:
        """``budget``: bytes that models may keep; ``slots``: jobs that the foreground is given at once.

        With ``profiles``, jobs share as far as it was measured to pay; without, as far as they can."""
        self.device = device
        self._slots = slots
        self._residency = Residency(budget)
        self._profiles = profiles
        self._forwards = Forwards(lambda: self._evict(down_to=0), profiles, lambda: settle(device))
        self._threads = JobThreads()
        self._loaded: deque[Loaded] = deque()
        self._loading: str | None = None  # the key of the model
        self._once_more = False  # this load is the second try
        self._held_up: int | None = None  # jobs that came later begin after the one that waits for room
        self._computing = Turns()
        self._firings: list[Firing] = []
        self._spent = Spent()
        self._arriving: deque[Firing] = deque()
        self._arrived = 0
        self._changed = threading.Condition()
        self._closed = False
        self._loader = Loader(device, self._take_loaded, self._computing)
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

    def _take_loaded(self, loaded: Loaded) -> None:
        """On the loader's thread."""
        with self._changed:
            self._loaded.append(loaded)
            self._changed.notify()

    def _fire(self) -> None:
        while True:
            with self._changed:
                while self._arriving:
                    self._firings.append(self._arriving.popleft())
                loaded = [self._loaded.popleft() for _ in range(len(self._loaded))]
            for one in loaded:
                self._enter(one)
            if not self._firings and self._closed:
                break
            self._load_next()
            if ready := [firing for firing in self._firings if self._is_ready(firing)]:
                self._next_turn(ready)
            else:
                with self._changed:
                    self._changed.wait_for(self._has_news)
        self._loader.end()
        self._threads.end()
        self._evict(down_to=0)

    def _has_news(self) -> bool:
        """Whether there is something to do for an engine thread that has no job to run."""
        return bool(
            self._arriving
            or self._loaded
            or (self._closed and not self._firings)
            or any(firing.shall_stop for firing in self._firings)
        )

    def _is_ready(self, firing: Firing) -> bool:
        if firing.thread is not None or firing.shall_stop is not None:
            return True
        waits_behind = self._held_up is not None and firing.arrived > self._held_up
        return firing.order.model_key in self._residency and not waits_behind

    def _next_turn(self, ready: list[Firing]) -> None:
        candidates = [self._candidate(firing) for firing in ready]
        firings = {firing.arrived: firing for firing in ready}
        full = sum(not candidate.background for candidate in candidates) >= self._slots
        chosen = next_turn(candidates, self._spent, full=full)
        began = time.monotonic()
        with self._computing:
            self._turn([firings[one.arrived] for one in chosen], stopping=chosen[0].stopping)
        self._spent = self._spent.after(chosen[0], time.monotonic() - began, candidates)

    def _candidate(self, firing: Firing) -> Candidate:
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

    def _turn(self, chosen: list[Firing], *, stopping: bool) -> None:
        """Compute the call at which these jobs wait, if they do, and let each go on to its next boundary."""
        calls = [firing.call for firing in chosen if firing.call is not None]
        if calls and not stopping:
            model = chosen[0].order.model_key
            for firing, answer in zip(chosen, self._forwards.compute(calls, model), strict=True):
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
        assert resident is not None
        if firing.pinned:
            self._release(firing)
        if order.timeout is not None:
            firing.deadline = time.monotonic() + order.timeout
        try:
            firing.begin(_Body(firing, resident.loaded, self.device), self._threads)
        except Stopped:
            self._residency.unpin(order.model_key)  # what was loaded is there for others
            raise

    def _end(self, firing: Firing, outcome: Outcome) -> None:
        self._firings.remove(firing)
        self._release(firing)
        if self._profiles is not None:
            self._profiles.save(firing.order.model_key)
        if isinstance(outcome.error, OutOfMemory):
            self._evict(down_to=0)  # the next attempt shall find what room there can be
        firing.end(outcome)

    def _release(self, firing: Firing) -> None:
        """The job needs no more that its model is kept until it begins."""
        if firing.pinned:
            firing.pinned = False
            self._residency.unpin(firing.order.model_key)

    def _load_next(self) -> None:
        """Load what the first job needs that waits for a model, once there is room beside those that run."""
        if self._loading is not None:
            return
        self._held_up = None
        missing = [one for one in self._firings if not self._is_ready(one)]
        if not missing:
            return
        first = min(missing, key=lambda firing: firing.arrived)
        needed, pinned = _weights(first.order.folder), self._residency.pinned
        running = any((one.thread or one.pinned) and not one.order.background for one in self._firings)
        if running and pinned + needed > self._residency.budget:
            self._held_up = first.arrived
            return
        self._evict(down_to=max(0, self._residency.budget - needed))
        self._ask(first)

    def _ask(self, firing: Firing) -> None:
        self._loading = firing.order.model_key
        firing.watcher.begun()
        for one in self._firings:
            if one.order.model_key == self._loading and one.thread is None:
                one.watcher.progress(Progress("load", 0))
        self._loader.load(firing)

    def _enter(self, loaded: Loaded) -> None:
        """Keep a model that was loaded, or end the jobs that waited for it. Out of memory is tried again."""
        order = loaded.firing.order
        full = isinstance(loaded.error, OutOfMemory) and not self._once_more
        self._once_more = full
        if full:
            log.warning("out of memory while loading %s; again without idle models", order.model.id)
            self._evict(down_to=0)
            self._ask(loaded.firing)
            return
        self._loading = None
        waiting = [one for one in self._firings if one.order.model_key == order.model_key]
        if loaded.error is not None:
            for firing in waiting:
                self._end(firing, Outcome.of_error(loaded.error, loaded.seconds))
            return
        self._residency.add(order.model_key, order.model.id, loaded.model, loaded.nbytes)
        loaded.firing.load_seconds = loaded.seconds
        if loaded.firing in waiting:
            loaded.firing.pinned = True
        else:
            self._residency.unpin(order.model_key)
        self._evict(down_to=self._residency.budget)  # the estimate may have been too low

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
