"""Three ways to serve the same requests with the same pipeline: one by one, static batches, the kiln.

Each runs in a process of its own, and computes on one thread of it.
"""

from __future__ import annotations

import multiprocessing
import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from bench.drawing import Drawing, folder_model
from shared.settings import Settings
from worker.engines.contract.engine import Device

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

    threads = 1

    def __init__(self, folder: Path, device: Device) -> None:
        self.folder, self.device = folder, device
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

    def __init__(self, folder: Path, device: Device) -> None:
        super().__init__(folder, device)
        # on the thread that computes: another one that computed too would slow it down
        self._pipe = self._pool.submit(self._load).result()
        self._forwards = 0

    @property
    def forwards(self) -> int:
        return self._forwards

    def one(self, request: Request) -> None:
        self._together([request])

    def _load(self) -> Any:
        load: Any = DiffusionPipeline.from_pretrained
        pipe = load(self.folder, dtype=getattr(torch, self.device.dtype), local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(self.device.name)

    def _together(self, requests: Sequence[Request]) -> None:
        """One call of the pipeline for requests of equal steps."""
        self._pipe(
            [f"picture {request.seed}" for request in requests],
            num_inference_steps=requests[0].steps,
            guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
        )
        self._forwards += requests[0].steps
        done = time.perf_counter()
        for request in requests:
            request.done = done


class Static(Sequential):
    """Up to eight that arrive within 50 ms in one call; those of different steps in calls of their own."""

    def __init__(self, folder: Path, device: Device) -> None:
        super().__init__(folder, device)
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
    """The worker's own kiln and engine, with as many threads as a worker has slots, without the rest of the
    worker."""

    threads = SLOTS

    def __init__(self, folder: Path, device: Device) -> None:
        super().__init__(folder, device)
        self._drawing = Drawing(device, SLOTS)
        self._model = folder_model(folder)

    @property
    def forwards(self) -> int:
        return self._drawing.forwards.get("forwards/unet", 0)

    def close(self) -> None:
        super().close()
        self._drawing.close()

    def one(self, request: Request) -> None:
        given = {
            "prompt": f"picture {request.seed}",
            "steps": request.steps,
            "guidance_scale": 1.0,
            "seed": request.seed,
        }
        self._drawing.one(self._model, self.folder, given)
        request.done = time.perf_counter()


#: by name, in the order of tables
SYSTEMS: dict[str, type[System]] = {"sequential": Sequential, "static": Static, "kiln": InKiln}


class Apart:
    """A system in a process of its own."""

    def __init__(self, name: str, folder: Path, device: Device) -> None:
        self.name, self.threads = name, SYSTEMS[name].threads
        start = multiprocessing.get_context("spawn")
        self._asked, theirs = start.Pipe()
        self._process = start.Process(target=_run, args=(name, folder, device, theirs), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def forwards(self) -> int:
        """Of the denoiser, so far."""
        self._asked.send(None)
        counted: int = self._asked.recv()
        return counted

    def serve(self, requests: list[Request], gaps: Sequence[float]) -> float:
        """As ``System.serve``."""
        self._asked.send((requests, gaps))
        took: float
        took, requests[:] = self._asked.recv()
        return took

    def close(self) -> None:
        """End the process."""
        self._asked.close()
        self._process.join()


def _run(name: str, folder: Path, device: Device, asked: Connection) -> None:
    """Serve what is asked for until the other end is closed."""
    system = SYSTEMS[name](folder, device)
    try:
        while True:
            match asked.recv():
                case None:
                    asked.send(system.forwards)
                case (requests, gaps):
                    asked.send((system.serve(requests, gaps), requests))
    except EOFError:
        system.close()
