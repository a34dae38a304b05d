"""The whole service beside the engine alone, with starter-image and a full queue."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.kiln_systems import InKiln, Request
from bench.subjects import QanvasSubject
from tests.servers import Valkey

STEPS = 10
JOB = {
    "model": "starter-image",
    "input": {"prompt": "a red apple", "seed": 7, "steps": STEPS, "guidance_scale": 1.0},
}


def compare(pipe: Any, count: int) -> str:
    """Pictures a second of both, and what the service adds."""
    pipe.set_progress_bar_config(disable=True)
    engine = _engine(pipe, count)
    service = _service(count)
    return (
        f"The whole service draws {service:.1f} pictures/s (starter-image, {STEPS} steps, full queue), "
        f"the engine alone {engine:.1f}; ratio {service / engine:.2f}."
    )


def _engine(pipe: Any, count: int) -> float:
    kiln = InKiln(pipe)
    try:
        for _ in range(2):  # the first time also measures
            requests = [Request(seed, STEPS) for seed in range(count)]
            began = time.perf_counter()
            for request in requests:
                kiln.submit(request)
            kiln.finish()
        return count / (max(request.done for request in requests) - began)
    finally:
        kiln.close()


def _service(count: int) -> float:
    folder = Path(tempfile.mkdtemp(prefix="qanvas-kiln-service-"))
    (folder / "valkey").mkdir()
    valkey = Valkey(folder / "valkey").start()
    try:
        assert valkey.process is not None
        url = f"sqlite:///{folder / 'jobs.db'}"
        subject = QanvasSubject("service", folder, url, valkey.url, [valkey.process.pid], job=JOB)
        with subject.server(), subject.worker():
            subject.wait_for(subject.submit(count))  # loads the model, and measures it
            samples = subject.submit(count)
            ends = sorted(subject.wait_for(samples))
            return (len(ends) - 1) / (ends[-1] - ends[0])
    finally:
        valkey.stop()
        shutil.rmtree(folder, ignore_errors=True)
