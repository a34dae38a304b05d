"""Loads models on a thread of its own, so that jobs of those that are loaded go on meanwhile."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from shared.errors import OutOfMemory
from worker.engines.contract.engine import Device
from worker.kiln.cpu_threads import imported_torch, use_one_core
from worker.kiln.kiln_job import KilnJob


class Turns:
    """A lock that whoever waits for it gets next: the thread that held it last does not overtake."""

    def __init__(self) -> None:
        self._next, self._held = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        with self._next:
            self._held.acquire()

    def release(self) -> None:
        self._held.release()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of loading the model of a job: the model, or the error."""

    kiln_job: KilnJob
    seconds: float
    model: Any = None
    nbytes: int = 0
    error: Exception | None = None


class Loader:
    """One model after another, in the order asked for."""

    def __init__(self, device: Device, done: Callable[[Loaded], None], computing: Turns) -> None:
        """``done`` is called on the loader's thread. ``computing`` is held by whoever computes: see below."""
        self._device = device
        self._done = done
        self._computing = computing
        self._asked: queue.SimpleQueue[tuple[KilnJob, int] | None] = queue.SimpleQueue()
        #: the job whose model is loaded now, and since when; any thread may read it
        self.at: tuple[KilnJob, float] | None = None
        self._thread = threading.Thread(target=self._serve, name="loader", daemon=True)
        self._thread.start()

    def load(self, kiln_job: KilnJob, memory: int) -> None:
        """Load the model that this job needs, into so many bytes if that is possible."""
        self._asked.put((kiln_job, memory))

    @property
    def native_id(self) -> int:
        """As ``threading.get_native_id`` gives it on the loader's thread."""
        return self._thread.native_id or 0

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """Inside, the load waits for the engine thread, whose turn may take long and is watched itself."""
        at, self.at = self.at, None
        try:
            yield
        finally:
            self.at = at and (at[0], time.monotonic())

    def end(self) -> None:
        """Load nothing more."""
        self._asked.put(None)

    def _serve(self) -> None:
        while (asked := self._asked.get()) is not None:
            self.at = asked[0], time.monotonic()
            loaded = self._load(*asked)
            self.at = None
            self._done(loaded)

    def _load(self, kiln_job: KilnJob, memory: int) -> Loaded:
        order, began = kiln_job.order, time.monotonic()
        device = replace(self._device, memory=memory)
        use_one_core()
        try:
            with DefaultFormats(self._computing, self._resting):
                model = order.engine.load(order.model, order.folder, device)
            size = order.engine.nbytes(model)
        except OutOfMemory as error:
            full = OutOfMemory(error.message)  # a new one: the old one holds what was loaded
            return Loaded(kiln_job, time.monotonic() - began, error=full)
        except Exception as error:  # noqa: BLE001 - the jobs that wait for the model get it
            return Loaded(kiln_job, time.monotonic() - began, error=error)
        return Loaded(kiln_job, time.monotonic() - began, model, size)


class DefaultFormats:
    """Inside, nobody computes while this thread has changed the format of the process's new tensors.

    The libraries make a model of half precision by changing what ``torch.tensor`` makes for everybody, for
    the moments in which they build its modules; a scheduler that made its numbers then would make them of
    half precision too."""

    def __init__(
        self, computing: Turns, waiting: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """``waiting`` is entered while this thread waits for whoever computes."""
        self._computing = computing
        self._waiting = waiting
        self._held = False
        self._real: Any = None

    def __enter__(self) -> None:
        torch = imported_torch()
        if torch is None:  # an engine without it
            return
        self._torch, self._mine = torch, threading.get_ident()
        self._usual, self._real = torch.get_default_dtype(), torch.set_default_dtype
        torch.set_default_dtype = self._change

    def __exit__(self, *_: object) -> None:
        if self._real is not None:
            self._torch.set_default_dtype = self._real
            if self._held:  # loading failed in one of those moments
                self._real(self._usual)
                self._release()

    def _change(self, dtype: Any) -> None:
        mine = threading.get_ident() == self._mine
        if mine and dtype != self._usual and not self._held:
            with self._waiting():
                self._computing.acquire()
            self._held = True
        self._real(dtype)
        if mine and dtype == self._usual:
            self._release()

    def _release(self) -> None:
        if self._held:
            self._held = False
            self._computing.release()
