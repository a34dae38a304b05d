"""Jobs with different adapters in one kiln: each has its own, and those with the same share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engines import additions, pipelines
from tests.engines.test_arrange import Loaded
from tests.engines.test_tasks import SIZE, difference, load, pixels
from tests.kiln.studio import Studio
from worker.engines.contract.engine import Image
from worker.engines.diffusion.engine import LoadedPipeline
from worker.kiln.kiln_job import Outcome

STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.save("sd", tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedPipeline:
    return load(folder)


@pytest.fixture(scope="module")
def wanted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What a job's ``loras`` are: ``ink`` changes the denoiser, ``oil`` the text encoder too."""
    parent = tmp_path_factory.mktemp("loras")
    paths = {
        name: str(additions.save_lora(folder, parent / name, seed=seed, text=name == "oil"))
        for seed, name in enumerate(("ink", "oil"))
    }
    loras = {name: [{"name": name, "weight": 1.0, "path": path}] for name, path in paths.items()}
    return {**loras, "faint ink": [{**loras["ink"][0], "weight": 0.5}], "none": []}


def job(seed: int, loras: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    size = {"width": SIZE, "height": SIZE}
    return {
        "prompt": "a",
        "seed": seed,
        "steps": STEPS,
        "guidance_scale": 4.0,
        "loras": loras,
        **size,
        **more,
    }


def drawn(outcome: Outcome) -> Any:
    assert outcome.result is not None, outcome.trace
    [image] = outcome.result.outputs
    assert isinstance(image, Image)
    return image.pixels


def test_two_adapters_and_none_at_once_draw_what_each_draws_alone_and_share_nothing(
    loaded: LoadedPipeline, wanted: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    jobs = [job(3, wanted[name]) for name in ("ink", "oil", "none")]
    alone = [pixels(loaded, tmp_path, **given) for given in jobs]
    assert min(difference(alone[i], alone[i - 1]) for i in range(3)) > 1, "the adapters show"
    with Studio(tmp_path, Loaded(loaded)) as studio:
        outcomes = studio.together(jobs)
        counts = studio.kiln.forwards
    assert [np.array_equal(drawn(one), other) for one, other in zip(outcomes, alone, strict=True)] == [
        True
    ] * 3
    assert counts["forwards/unet"] == 3 * STEPS
    assert "shared" not in counts


@pytest.mark.slow
def test_the_same_adapters_and_weights_share_and_others_stay_apart(
    loaded: LoadedPipeline, wanted: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    names = ("ink", "none", "ink", "faint ink", "oil", "none")
    jobs = [job(seed, wanted[name]) for seed, name in enumerate(names)]
    alone = [pixels(loaded, tmp_path, **given) for given in jobs]
    with Studio(tmp_path, Loaded(loaded)) as studio:
        studio.together(jobs)  # the first time that such calls meet they are checked
        before = studio.kiln.forwards["forwards/unet"]
        outcomes = studio.together(jobs)
        forwards = studio.kiln.forwards["forwards/unet"] - before
    assert forwards == 4 * STEPS, "as many as there are different wishes"
    for outcome, expected in zip(outcomes, alone, strict=True):
        assert difference(drawn(outcome), expected) <= 1
