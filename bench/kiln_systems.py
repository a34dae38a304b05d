"""Three ways to serve the same requests with the same pipeline: one by one, static batches, the kiln."""

from __future__ import annotations

import copy
import queue
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shared.catalog.models import Builtin, Model
from worker.engines.base import Context, Device, Result, Work
from worker.engines.sharing.points import install, taking_part
from worker.kiln.devices import describe
from worker.kiln.firing import Order
from worker.kiln.kiln import Kiln
from worker.kiln.profiles import Profiles

#: jobs in a batch at most, and seconds that the first of a static batch waits for others
MOST, WINDOW = 8, 0.05


@dataclass(slots=True)
class Request:
    """``due``, ``done``: on the clock of ``time.perf_counter``."""

    seed: int
    steps: int
    due: float = 0.0
    done: float = 0.0


class System(ABC):
    name: str

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.forwards = 0

    @abstractmethod
    def submit(self, request: Request) -> None:
        """Take a request; it is computed later, and its ``done`` set then."""

    @abstractmethod
    def finish(self) -> None:
        """Return when all that were taken are done."""

    def draw(self, requests: Sequence[Request]) -> None:
        """One call of the pipeline for requests of equal steps."""
        pipe = copy.copy(self.pipe)
        pipe.scheduler = copy.deepcopy(self.pipe.scheduler)
        pipe(
            [f"picture {request.seed}" for request in requests],
            num_inference_steps=requests[0].steps,
            guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
            output_type="np",
        )

    @abstractmethod
    def close(self) -> None:
        """Stop its threads; nothing is submitted any more."""


class Sequential(System):
    """Calls of the pipeline one after the other, in order of arrival."""

    name = "sequential"

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self._waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def submit(self, request: Request) -> None:
        self._waiting.put(request)

    def finish(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def close(self) -> None:
        """Its thread has ended with the last request."""

    def _serve(self) -> None:
        while (request := self._waiting.get()) is not None:
            for group in self._groups(request):
                self.draw(group)
                self.forwards += group[0].steps
                done = time.perf_counter()
                for each in group:
                    each.done = done

    def _groups(self, first: Request) -> list[list[Request]]:
        return [[first]]


class Static(Sequential):
    """Up to eight that arrive within 50 ms in one call; those of different steps in calls of their own."""

    name = "static"

    def _groups(self, first: Request) -> list[list[Request]]:
        taken, until = [first], time.perf_counter() + WINDOW
        while len(taken) < MOST:
            try:
                request = self._waiting.get(timeout=max(0.0, until - time.perf_counter()))
            except queue.Empty:
                break
            if request is None:
                self._waiting.put(None)
                break
            taken.append(request)
        groups: dict[int, list[Request]] = {}
        for request in taken:
            groups.setdefault(request.steps, []).append(request)
        return list(groups.values())


class InKiln(System):
    """The worker's own kiln, without the rest of the worker."""

    name = "kiln"

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        install(pipe)
        device = Device()
        self._folder = tempfile.TemporaryDirectory(prefix="qanvas-kiln-")
        profiles = Profiles(Path(self._folder.name), describe(device))
        self._kiln = Kiln(device, 1 << 40, slots=MOST, profiles=profiles)
        self._engine = _Engine(self)
        self._places = threading.BoundedSemaphore(MOST)  # as the worker's slots
        self._threads: list[threading.Thread] = []
        self._counted = 0

    def submit(self, request: Request) -> None:
        thread = threading.Thread(target=self._serve, args=(request,))
        self._threads.append(thread)
        thread.start()

    def finish(self) -> None:
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        count = self._kiln.forwards["forwards/unet"]
        self.forwards, self._counted = count - self._counted, count

    def close(self) -> None:
        self._kiln.close(timeout=10)
        self._folder.cleanup()

    def _serve(self, request: Request) -> None:
        with self._places:
            order = Order(
                work=Work(job_id=f"{id(request)}", task="t", input={"request": request}),
                model=_MODEL,
                model_key="m",
                folder=None,
                engine=self._engine,
                scratch=Path(self._folder.name) / "scratch",
            )
            outcome = self._kiln.submit(order, _Quiet()).wait()
        if outcome.error is not None:
            raise RuntimeError(outcome.trace)
        request.done = time.perf_counter()


_MODEL = Model(id="m", task="t", engine="e", source=Builtin(), input_schema={}, output="image/png")


class _Engine:
    """Implements ``Engine`` over the system's pipeline."""

    def __init__(self, system: InKiln) -> None:
        self._system = system

    def load(self, model: Model, folder: Path | None, device: Device) -> None:
        """It is there already."""

    def nbytes(self, loaded: None) -> int:
        return 0

    def run(self, loaded: None, work: Work, context: Context) -> Result:
        with taking_part(context):
            self._system.draw([work.input["request"]])
        return Result()


class _Quiet:
    def begun(self) -> None: ...

    def progress(self, progress: object) -> None: ...

    def token(self, text: str) -> None: ...
