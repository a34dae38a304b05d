"""Real pipelines in a budget that holds one of them at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.catalog.entries.model import Model
from tests.engines import pipelines
from tests.engines.test_tasks import Pixels
from tests.kiln.studio import Studio
from worker.engines.contract.engine import Device, Image
from worker.engines.diffusion.engine import DiffusionEngine, LoadedPipeline
from worker.engines.memory import module_bytes
from worker.kiln.cost_profile import CostProfiles


class Counted(DiffusionEngine):
    """Notes what it loads, and how many bytes that has."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.sizes: dict[str, int] = {}

    def load(self, model: Model, folder: Path | None, device: Device) -> LoadedPipeline:
        loaded = super().load(model, folder, device)
        parts = [part for part in loaded.pipe.components.values() if isinstance(part, torch.nn.Module)]
        self.loads.append(model.id)
        self.sizes[model.id] = module_bytes(*parts)
        return loaded


@pytest.mark.slow
def test_models_swap_with_the_memory_that_they_and_their_jobs_take(tmp_path: Path) -> None:
    folders = {name: pipelines.save(name, tmp_path / name) for name in ("sd", "sdxl")}
    profiles, job = (
        CostProfiles(None, "cpu"),
        {"prompt": "a", "seed": 1, "steps": 2, "width": 16, "height": 16},
    )

    def draw(studio: Studio, name: str, **more: Any) -> Pixels:
        outcome = studio.submit(job | more, model=name, folder=folders[name]).wait()
        assert outcome.result is not None, outcome.trace
        [image] = outcome.result.outputs
        assert isinstance(image, Image)
        return image.pixels

    roomy = Counted()
    with Studio(tmp_path, roomy, profiles=profiles) as studio:
        for name in folders:
            draw(studio, name)  # what a job takes is measured
        expected = {name: draw(studio, name, exact=True) for name in folders}
        assert roomy.loads == ["sd", "sdxl"]
        assert studio.kiln.memory["models"] == sum(roomy.sizes.values())
    peaks = {name: profiles.peak(name) for name in folders}
    assert all(peaks.values())
    narrow, budget = Counted(), max(roomy.sizes[name] + peaks[name] for name in folders)
    with Studio(tmp_path, narrow, budget=budget, profiles=profiles) as studio:
        for name in ("sd", "sdxl", "sdxl", "sd"):
            assert np.array_equal(draw(studio, name, exact=True), expected[name])
            assert studio.kiln.models == (name,)
            assert studio.kiln.memory == {"budget": budget, "models": roomy.sizes[name]}
    assert narrow.loads == ["sd", "sdxl", "sd"]
