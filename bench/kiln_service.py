"""The whole service beside the engine alone, with starter-image and a full queue."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.drawing import Drawing, starter_image
from bench.kiln_systems import MOST
from bench.subjects import QanvasSubject
from tests.servers import Valkey
from worker.engines.base import Device

STEPS = 10
INPUT = {"prompt": "a red apple", "seed": 7, "steps": STEPS, "guidance_scale": 1.0}


@dataclass(frozen=True, slots=True)
class Service:
    """Pictures a second, medians of the rounds; ``ratio``: the median of service to engine in each round."""

    engine: float
    service: float
    ratio: float


def compare(device: Device, count: int, rounds: int) -> Service:
    """Both draw ``count`` pictures in each round, one after the other; both are warm, and the other idle."""
    model, weights = starter_image()
    given = {**INPUT, "width": 64, "height": 64}
    found: list[tuple[float, float]] = []
    with _service(device) as service, Drawing(device, MOST) as engine:
        for number in range(rounds + 1):
            began = time.perf_counter()
            engine.draw(model, weights, [given] * count)
            alone = count / (time.perf_counter() - began)
            ends = sorted(service.wait_for(service.submit(count)))
            whole = (len(ends) - 1) / (ends[-1] - ends[0])
            if number > 0:  # the first one loads the model, and measures it
                found.append((alone, whole))
    engines, services = zip(*found, strict=True)
    return Service(
        statistics.median(engines),
        statistics.median(services),
        statistics.median(whole / alone for alone, whole in found),
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
        subject = QanvasSubject("service", folder, url, valkey.url, beside, job=job, device=device.name)
        with subject.server(), subject.worker():
            yield subject
    finally:
        valkey.stop()
        shutil.rmtree(folder, ignore_errors=True)
