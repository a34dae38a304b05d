"""The worker's engine without the rest of it: jobs drawn in a kiln, each read by a thread of its own."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shared.catalog import builtin
from shared.catalog.entries.model import Folder, Model
from tests.kiln.studio import Quiet
from worker.engines.contract.engine import Device, Work
from worker.engines.diffusion.engine import DiffusionEngine
from worker.kiln.cost_profile import CostProfiles
from worker.kiln.devices import describe, memory_budget
from worker.kiln.kiln import Kiln
from worker.kiln.kiln_job import Order, Preview
from worker.media.png import encode_preview


@dataclass(frozen=True, slots=True)
class Drawn:
    """``ended``: on the clock of ``time.time``."""

    previews: int
    ended: float


class Drawing:
    """A kiln and as many threads as a worker has slots; they encode previews, as a worker's do."""

    def __init__(self, device: Device, slots: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="qanvas-drawing-")
        self._path = Path(self._folder.name)
        profiles = CostProfiles(self._path / "profiles", describe(device))
        self._kiln = Kiln(device, memory_budget(device, 0), slots=slots, profiles=profiles)
        self._threads = ThreadPoolExecutor(slots)
        self._engine = DiffusionEngine()
        self._numbers = itertools.count()

    def draw(self, model: Model, weights: Path, inputs: Sequence[Mapping[str, Any]]) -> list[Drawn]:
        """All of these jobs. Raises RuntimeError when one fails."""
        return list(self._threads.map(lambda given: self.one(model, weights, given), inputs))

    @property
    def forwards(self) -> Mapping[str, int]:
        """As ``Kiln.forwards``."""
        return self._kiln.forwards

    def one(self, model: Model, weights: Path, given: Mapping[str, Any]) -> Drawn:
        """One job, on the calling thread. Raises RuntimeError when it fails."""
        number = next(self._numbers)
        order = Order(
            work=Work(job_id=f"job-{number}", task="text-to-image", input=given),
            model=model,
            model_key=model.id,
            folder=weights,
            engine=self._engine,
            scratch=self._path / str(number),
        )
        kiln_job, shown = self._kiln.submit(order, Quiet()), 0
        for notice in kiln_job.notices():
            if isinstance(notice, Preview):
                encode_preview(notice.image)
                shown += 1
        if kiln_job.outcome is None or kiln_job.outcome.error is not None:
            raise RuntimeError(f"a job failed: {kiln_job.outcome and kiln_job.outcome.trace}")
        return Drawn(shown, time.time())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End its threads."""
        self._threads.shutdown()
        self._kiln.close(timeout=10)
        self._folder.cleanup()


def folder_model(folder: Path) -> Model:
    """A pipeline in a folder, as the catalog would have it."""
    return Model(
        id=folder.name,
        task="text-to-image",
        engine="diffusion",
        source=Folder(str(folder)),
        input_schema={},
        output="image/png",
    )


def starter_image() -> tuple[Model, Path]:
    """``starter-image`` and where its weights lie. Raises RuntimeError where there are none."""
    model = next((model for model in builtin.starters() if model.id == "starter-image"), None)
    weights = builtin.starter_folder("image")
    if model is None or weights is None:
        raise RuntimeError("the weights of starter-image are not in starters/image; check them out first")
    return model, weights
