"""What a request costs that nobody shares with: the bare pipeline, the kiln and the whole service, by turns.

Each has a process of its own (the service two, and a Valkey), since each thread of a process that computes
has helper threads of its own, and those of two systems in one process would be in each other's way.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from bench.bare import bare
from bench.drawing import Drawing, folder_model
from bench.kiln_models import Subject
from bench.kiln_service import serving
from bench.kiln_systems import SLOTS
from worker.engines.contract.engine import Device

#: requests of each system until it is warm
_WARM = 4


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of neighbours: the median, and the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Ratio:
        low, median, high = statistics.quantiles(values, n=4)
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Lone:
    """``bare``: median of the seconds of one call of the pipeline; ``kiln`` and ``service`` in parts of their
    neighbour's."""

    subject: Subject
    bare: float
    kiln: Ratio
    service: Ratio
    pairs: int


def lone(subject: Subject, device: Device, count: int) -> Lone:
    """So many requests of each system, one after the other, in an order that goes round."""
    with tempfile.TemporaryDirectory(prefix="qanvas-lone-") as scratch:
        folder = subject.saved(Path(scratch))
        with (
            bare(folder, device.name, device.dtype, subject.guidance) as plain,
            _kiln(subject, folder, device) as kiln,
            serving(subject, folder, device, slots=SLOTS) as service,
        ):
            systems: list[Callable[[int], float]] = [
                lambda number: plain.draw([number], subject.lone),
                lambda number: _ask(kiln, number),
                lambda number: service.one(number, subject.lone),
            ]
            rows = []
            for number in range(_WARM + count):
                took = [0.0, 0.0, 0.0]
                for turn in range(3):
                    which = (number + turn) % 3
                    took[which] = systems[which](number)
                rows.append(took)
    del rows[:_WARM]
    return Lone(
        subject,
        statistics.median(plain for plain, _, _ in rows),
        Ratio.of([kiln / plain for plain, kiln, _ in rows]),
        Ratio.of([service / plain for plain, _, service in rows]),
        count,
    )


def _ask(process: Connection, number: int) -> float:
    process.send(number)
    seconds: float = process.recv()
    return seconds


@contextmanager
def _kiln(subject: Subject, folder: Path, device: Device) -> Iterator[Connection]:
    """The worker's engine in its kiln, without the rest of the worker."""
    start = multiprocessing.get_context("spawn")
    ours, theirs = start.Pipe()
    child = start.Process(
        target=_serve, args=(folder, device, subject.lone, subject.guidance, theirs), daemon=True
    )
    child.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        child.join()


def _serve(folder: Path, device: Device, steps: int, guidance: float, asked: Connection) -> None:
    """Seconds for each request, until there are no more."""
    model = folder_model(folder)
    given = {"prompt": "a red apple", "steps": steps, "guidance_scale": guidance}
    with Drawing(device, slots=SLOTS) as drawing:
        try:
            while True:
                seed = asked.recv()
                began = time.perf_counter()
                drawing.one(model, folder, {**given, "seed": seed})
                asked.send(time.perf_counter() - began)
        except EOFError:
            return
