"""The whole service beside the engine alone, with starter-image and a full queue."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.drawing import Drawing, starter_image
from bench.kiln_systems import SLOTS
from bench.subjects import QanvasSubject
from tests.servers import Valkey
from worker.engines.base import Device

STEPS = 10
INPUT = {"prompt": "a red apple", "seed": 7, "steps": STEPS, "guidance_scale": 1.0}


@dataclass(frozen=True, slots=True)
class Rate:
    """Pictures a second, and seconds of CPU for each."""

    pictures: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Service:
    """Medians of the rounds; ``ratio`` and ``cpu_ratio``: of service to engine in each round."""

    engine: Rate
    service: Rate
    ratio: float
    cpu_ratio: float


def compare(device: Device, count: int, rounds: int) -> Service:
    """Both draw ``count`` pictures, more than the worker has slots, in each round, one after the other and in
    changing order; both are warm, and the other idle."""
    model, weights = starter_image()
    given = {**INPUT, "width": 64, "height": 64}
    engines: list[Rate] = []
    services: list[Rate] = []
    with _service(device) as service, Drawing(device, SLOTS) as engine:

        def draw_alone() -> None:
            used = time.process_time()
            drawn = engine.draw(model, weights, [given] * count)
            engines.append(_rate([each.ended for each in drawn], time.process_time() - used))

        def draw_whole() -> None:
            used = service.cpu()
            ends = service.wait_for(service.submit(count))
            services.append(_rate(ends, service.cpu() - used))

        for number in range(rounds + 1):
            turns = (draw_alone, draw_whole)
            for turn in turns if number % 2 == 0 else reversed(turns):
                turn()
    del engines[0], services[0]  # the first round loads the model, and measures it
    pairs = list(zip(engines, services, strict=True))
    return Service(
        _median(engines),
        _median(services),
        statistics.median(whole.pictures / alone.pictures for alone, whole in pairs),
        statistics.median(whole.cpu / alone.cpu for alone, whole in pairs),
    )


def _rate(ends: Sequence[float], cpu: float) -> Rate:
    """``ends``: when each ended. Those of equal steps end together, as many as there are slots: so the time
    runs from the end of the first so many, and they are not counted."""
    ends = sorted(ends)
    return Rate((len(ends) - SLOTS) / (ends[-1] - ends[SLOTS - 1]), cpu / len(ends))


def _median(rates: Sequence[Rate]) -> Rate:
    return Rate(
        statistics.median(rate.pictures for rate in rates), statistics.median(rate.cpu for rate in rates)
    )


@contextmanager
def _service(device: Device) -> Iterator[QanvasSubject]:
    folder = Path(tempfile.mkdtemp(prefix="qanvas-kiln-service-"))
    (folder / "valkey").mkdir()
    valkey = Valkey(folder / "valkey").start()
    try:
        assert valkey.process is not None
        url = f"sqlite:///{folder / 'jobs.db'}"
        job = {"model": "starter-image", "input": INPUT}
        beside = [valkey.process.pid]
        subject = QanvasSubject(
            "service", folder, url, valkey.url, beside, job=job, device=device.name, slots=SLOTS
        )
        with subject.server(), subject.worker():
            yield subject
    finally:
        valkey.stop()
        shutil.rmtree(folder, ignore_errors=True)
