"""Three ways to serve the same requests with the same pipeline: one by one, static batches, the kiln."""

from __future__ import annotations

import copy
import queue
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shared.catalog.models import Builtin, Model
from shared.settings import Settings
from tests.kiln.studio import Quiet
from worker.engines.base import Context, Device, Result, Work
from worker.engines.own import own_copy
from worker.engines.sharing.points import install, taking_part
from worker.kiln.devices import describe
from worker.kiln.firing import Order
from worker.kiln.kiln import Kiln
from worker.kiln.profiles import Profiles

#: jobs in a static batch at most, and seconds that its first one waits for others
MOST, WINDOW = 8, 0.05
#: jobs that a worker holds at once when nobody says otherwise
SLOTS = Settings.from_env({}).slots


@dataclass(slots=True)
class Request:
    """``due``, ``done``: on the clock of ``time.perf_counter``."""

    seed: int
    steps: int
    due: float = 0.0
    done: float = 0.0


class System(ABC):
    """A server of one pipeline: so many threads take requests in order of arrival."""

    name: str
    threads = 1

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self._pool = ThreadPoolExecutor(self.threads)

    @property
    @abstractmethod
    def forwards(self) -> int:
        """Of the denoiser, so far."""

    def serve(self, requests: Sequence[Request], gaps: Sequence[float]) -> float:
        """Let them arrive with these seconds between them; returns the seconds until the last was done."""
        began = due = time.perf_counter()
        served: list[Future[None]] = []
        for request, gap in zip(requests, gaps, strict=True):
            due += gap
            time.sleep(max(0.0, due - time.perf_counter()))
            request.due = due
            served.append(self._submit(request))
        for each in served:
            each.result()
        return max(request.done for request in requests) - began

    def draw(self, requests: Sequence[Request]) -> None:
        """One call of the pipeline for requests of equal steps."""
        self.copy()(
            [f"picture {request.seed}" for request in requests],
            num_inference_steps=requests[0].steps,
            guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
            output_type="np",
        )

    def copy(self) -> Any:
        """The pipeline for one call."""
        pipe = copy.copy(self.pipe)
        pipe.scheduler = copy.deepcopy(self.pipe.scheduler)
        return pipe

    def close(self) -> None:
        """Stop its threads; nothing is served any more."""
        self._pool.shutdown()

    @abstractmethod
    def one(self, request: Request) -> None:
        """Serve a request on the calling thread."""

    def _submit(self, request: Request) -> Future[None]:
        return self._pool.submit(self.one, request)


class Sequential(System):
    """Calls of the pipeline one after the other, in order of arrival."""

    name = "sequential"

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self._forwards = 0

    @property
    def forwards(self) -> int:
        return self._forwards

    def one(self, request: Request) -> None:
        self._together([request])

    def _together(self, requests: Sequence[Request]) -> None:
        self.draw(requests)
        self._forwards += requests[0].steps
        done = time.perf_counter()
        for request in requests:
            request.done = done


class Static(Sequential):
    """Up to eight that arrive within 50 ms in one call; those of different steps in calls of their own."""

    name = "static"

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self._waiting: queue.SimpleQueue[Request] = queue.SimpleQueue()

    def _submit(self, request: Request) -> Future[None]:
        self._waiting.put(request)
        return self._pool.submit(self._batch)

    def _batch(self) -> None:
        """Serve those that wait; an earlier batch may have taken all of them."""
        taken: list[Request] = []
        until = 0.0
        while len(taken) < MOST:
            try:
                taken.append(self._waiting.get(timeout=max(0.0, until - time.perf_counter())))
            except queue.Empty:
                break
            if len(taken) == 1:
                until = time.perf_counter() + WINDOW
        groups: dict[int, list[Request]] = {}
        for request in taken:
            groups.setdefault(request.steps, []).append(request)
        for group in groups.values():
            self._together(group)


class InKiln(System):
    """The worker's own kiln, with as many threads as a worker has slots, without the rest of the worker."""

    name = "kiln"
    threads = SLOTS

    def __init__(self, pipe: Any, device: Device) -> None:
        super().__init__(pipe)
        install(pipe)
        self._folder = tempfile.TemporaryDirectory(prefix="qanvas-kiln-")
        profiles = Profiles(Path(self._folder.name), describe(device))
        self._kiln = Kiln(device, 1 << 40, slots=SLOTS, profiles=profiles)
        self._engine = _Engine(self)

    @property
    def forwards(self) -> int:
        return self._kiln.forwards.get("forwards/unet", 0)

    def copy(self) -> Any:
        return own_copy(self.pipe, copy.deepcopy(self.pipe.scheduler))

    def close(self) -> None:
        super().close()
        self._kiln.close(timeout=10)
        self._folder.cleanup()

    def one(self, request: Request) -> None:
        order = Order(
            work=Work(job_id=f"{request.seed}", task="t", input={"request": request}),
            model=_MODEL,
            model_key="m",
            folder=None,
            engine=self._engine,
            scratch=Path(self._folder.name) / "scratch",
        )
        outcome = self._kiln.submit(order, Quiet()).wait()
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
