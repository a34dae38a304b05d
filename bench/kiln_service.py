"""The whole service with a full queue, beside the best batches of the bare pipeline."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import load
from bench.bare import bare
from bench.kiln_models import STARTER, Subject
from bench.kiln_systems import SLOTS
from bench.subjects import QanvasSubject
from tests.servers import Valkey
from worker.engines.contract.engine import Device

#: sizes of the bare pipeline's batches, of which the fastest is compared with
BATCHES = (1, 2, 4, 6, 8, 12)
#: seconds that a turn of either side takes about
_TURN = 15.0
#: pictures in one turn at most
_MOST = 8 * SLOTS


@dataclass(frozen=True, slots=True)
class Service:
    """Pictures a second: of bare batches by their size, of the best of these and of the service by turns, and
    the median of the ratios."""

    subject: Subject
    batches: Mapping[int, float]
    bare: float
    service: float
    ratio: float
    rounds: int


class Serving:
    """``qanvas api`` and ``qanvas worker`` with one model."""

    def __init__(self, subject: QanvasSubject, given: Mapping[str, Any], model: str) -> None:
        self._subject, self._given, self._model = subject, given, model

    def one(self, seed: int, steps: int) -> float:
        """Seconds from the submission until its client knows that the picture is stored."""
        request = load.post("/v1/jobs", self._body(seed, steps), "Prefer: wait=60")
        began = time.perf_counter()
        [sample] = load.expect(load.as_fast_as_possible(self._subject.settings.port, request, 1, 1), 200)
        took = time.perf_counter() - began
        if json.loads(sample.body)["status"] != "succeeded":
            raise RuntimeError(sample.body.decode())
        return took

    def many(self, count: int, steps: int) -> float:
        """Pictures a second of a full queue: those that end first only start the clock, as many as there are
        slots, because jobs of equal steps end together."""
        self._subject.request = load.post("/v1/jobs", self._body(7, steps))
        ends = sorted(self._subject.wait_for(self._subject.submit(count)))
        return (count - SLOTS) / (ends[-1] - ends[SLOTS - 1])

    def _body(self, seed: int, steps: int) -> bytes:
        given = {"prompt": "a red apple", **self._given, "seed": seed, "steps": steps}
        return json.dumps({"model": self._model, "input": given}).encode()


def compare(subject: Subject, device: Device, rounds: int, turn: float = _TURN) -> Service:
    """Both draw the same number of pictures in each round, one after the other and in changing order, each
    warm, the other idle; ``turn``: seconds that it takes about."""
    steps = subject.equal[0]
    with tempfile.TemporaryDirectory(prefix="qanvas-full-") as scratch:
        folder = subject.saved(Path(scratch))
        with (
            bare(folder, device.name, device.dtype, subject.guidance) as plain,
            serving(subject, folder, device, slots=SLOTS) as service,
        ):

            def batches(size: int, count: int) -> float:
                took = sum(plain.draw(range(size), steps) for _ in range(max(1, count // size)))
                return max(1, count // size) * size / took

            for size in BATCHES:  # the first call of each size is slower
                plain.draw(range(size), steps)
            known = {size: batches(size, 2 * SLOTS) for size in BATCHES}
            best = max(known, key=lambda size: known[size])
            count = max(2 * SLOTS, min(_MOST, round(turn * known[best])))
            service.many(count, steps)  # loads the model, and measures it
            pairs = []
            for number in range(rounds):
                first = batches(best, count) if number % 2 else None
                whole = service.many(count, steps)
                pairs.append((batches(best, count) if first is None else first, whole))
    return Service(
        subject,
        known,
        statistics.median(one for one, _ in pairs),
        statistics.median(whole for _, whole in pairs),
        statistics.median(whole / one for one, whole in pairs),
        rounds,
    )


@contextmanager
def serving(subject: Subject, folder: Path, device: Device, *, slots: int) -> Iterator[Serving]:
    """The service with the subject's pipeline: as starter-image, or as a model of the operator's catalog."""
    scratch = Path(tempfile.mkdtemp(prefix="qanvas-kiln-service-"))
    (scratch / "valkey").mkdir()
    valkey = Valkey(scratch / "valkey").start()
    try:
        assert valkey.process is not None
        is_starter = folder == STARTER
        catalog = None if is_starter else _catalog(scratch / "catalog.toml", folder)
        served = QanvasSubject(
            "service",
            scratch,
            f"sqlite:///{scratch / 'jobs.db'}",
            valkey.url,
            [valkey.process.pid],
            device=device.name,
            slots=slots,
            catalog=catalog,
        )
        with served.server(), served.worker():
            given = {"guidance_scale": subject.guidance}
            yield Serving(served, given, "starter-image" if is_starter else "subject")
    finally:
        valkey.stop()
        shutil.rmtree(scratch, ignore_errors=True)


def _catalog(path: Path, folder: Path) -> Path:
    """A catalog with the pipeline in this folder, drawing pictures of its own size."""
    unet = json.loads((folder / "unet" / "config.json").read_text())
    vae = json.loads((folder / "vae" / "config.json").read_text())
    side = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    size = f"{{ minimum = {side}, maximum = {side}, multipleOf = 1, default = {side} }}"
    lines = [
        "[models.subject]",
        'task = "text-to-image"',
        f'folder = "{folder}"',
        "[models.subject.inputs]",
        f"width = {size}",
        f"height = {size}",
        "guidance_scale = { minimum = 1.0 }",
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
