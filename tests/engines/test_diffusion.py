"""Real pipelines of five families, tiny and untrained, through the one engine."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from shared.catalog.entries.model import Folder, Model
from shared.errors import JobError, ModelUnavailable
from tests.engines import pipelines
from tests.engines.contexts import Recorder
from worker.engines.contract.engine import Device, Image, Progress, Stopped, Work
from worker.engines.diffusion.engine import DiffusionEngine, LoadedPipeline
from worker.engines.diffusion.job_pipeline import own_copy

SCHEMA = {
    "properties": {
        "negative_prompt": {"default": ""},
        "guidance_scale": {"default": 5.0},
        "num_images": {"default": 1},
    }
}


def model(folder: Path) -> Model:
    return Model(
        id="tiny",
        task="text-to-image",
        engine="diffusion",
        source=Folder(str(folder)),
        input_schema=SCHEMA,
        output="image/png",
    )


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``loaded(kind)``: a pipeline of that family, saved and loaded once for all tests."""
    known: dict[str, LoadedPipeline] = {}
    lock = threading.Lock()

    def load(kind: str) -> LoadedPipeline:
        with lock:
            if kind not in known:
                folder = pipelines.save(kind, tmp_path_factory.mktemp(kind))
                known[kind] = DiffusionEngine().load(model(folder), folder, Device())
        return known[kind]

    return load


def given(**changes: Any) -> dict[str, Any]:
    return {"prompt": "a red apple", "seed": 3, "steps": 3, "width": 16, "height": 16, **changes}


def run(pipeline: LoadedPipeline, context: Recorder, **changes: Any) -> list[Image]:
    work = Work(job_id="job_1", task="text-to-image", input=given(**changes))
    outputs = DiffusionEngine().run(pipeline, work, context).outputs
    assert all(isinstance(output, Image) for output in outputs)
    return [output for output in outputs if isinstance(output, Image)]


@pytest.mark.parametrize("kind", list(pipelines.BUILDERS))
def test_every_family_makes_a_picture_step_by_step(kind: str, loaded: Any, tmp_path: Path) -> None:
    context = Recorder(tmp_path)
    [image] = run(loaded(kind), context)
    assert image.pixels.shape == (16, 16, 3) and image.pixels.dtype == np.uint8
    assert context.progress == [Progress("denoise", step, 3) for step in range(4)]


@pytest.mark.parametrize("kind", list(pipelines.BUILDERS))
def test_the_picture_is_bit_for_bit_the_librarys_own(kind: str, loaded: Any, tmp_path: Path) -> None:
    pipeline = loaded(kind)
    [image] = run(pipeline, Recorder(tmp_path), guidance_scale=4.0)
    generator = torch.Generator().manual_seed(3)
    expected = pipeline.pipe(
        "a red apple",
        num_inference_steps=3,
        width=16,
        height=16,
        guidance_scale=4.0,
        generator=generator,
    ).images[0]
    assert np.array_equal(image.pixels, np.asarray(expected))


def test_another_seed_gives_another_picture_and_the_same_seed_the_same(loaded: Any, tmp_path: Path) -> None:
    first, again, other = (run(loaded("sd"), Recorder(tmp_path), seed=seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)


def test_each_of_several_images_can_be_made_again_from_its_own_seed(loaded: Any, tmp_path: Path) -> None:
    images = run(loaded("sd"), Recorder(tmp_path / "three"), num_images=3)
    assert [image.metadata["seed"] for image in images] == ["3", "4", "5"]
    [alone] = run(loaded("sd"), Recorder(tmp_path / "one"), seed=int(images[2].metadata["seed"]))
    difference = np.abs(alone.pixels.astype(int) - images[2].pixels.astype(int)).max()
    assert difference <= 1


def test_a_cancel_ends_the_pipeline_within_a_step(loaded: Any, tmp_path: Path) -> None:
    context = Recorder(tmp_path, stop_at=3)
    with pytest.raises(Stopped):
        run(loaded("sd"), context, steps=50)
    assert context.progress[-1].step == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [("euler", "Euler"), ("EulerAncestralDiscreteScheduler", "EulerAncestral"), ("ddim", "DDIM")],
)
def test_a_scheduler_is_chosen_by_name(name: str, expected: str, loaded: Any, tmp_path: Path) -> None:
    [image] = run(loaded("sd"), Recorder(tmp_path), scheduler=name)
    assert image.metadata["scheduler"] == expected


def test_a_scheduler_of_two_orders_tells_its_true_number_of_steps(loaded: Any, tmp_path: Path) -> None:
    context = Recorder(tmp_path)
    run(loaded("sd"), context, scheduler="heun", steps=4)
    assert context.progress[-1] == Progress("denoise", 7, 7)


def test_a_scheduler_that_does_not_fit_names_those_that_do(loaded: Any, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"use one of .*DPMSolverMultistep.*Euler") as caught:
        run(loaded("sd"), Recorder(tmp_path), scheduler="flowmatch")
    assert caught.value.type == "invalid-input"


def test_jobs_leave_the_loaded_pipeline_as_it_was(loaded: Any, tmp_path: Path) -> None:
    pipeline = loaded("sd")
    own = pipeline.pipe.scheduler
    timesteps = own.timesteps.clone()
    run(pipeline, Recorder(tmp_path), scheduler="euler")
    run(pipeline, Recorder(tmp_path), steps=7)
    assert pipeline.pipe.scheduler is own
    assert torch.equal(own.timesteps, timesteps)


def test_an_input_that_the_pipeline_does_not_know_is_an_error_unless_it_says_nothing(
    loaded: Any, tmp_path: Path
) -> None:
    run(loaded("sd"), Recorder(tmp_path), strength=None)
    with pytest.raises(JobError, match="takes no strength") as caught:
        run(loaded("sd"), Recorder(tmp_path), strength=0.5)
    assert caught.value.type == "invalid-input"


def test_negative_prompt_and_guidance_change_the_picture(loaded: Any, tmp_path: Path) -> None:
    plain = run(loaded("sd"), Recorder(tmp_path), guidance_scale=1.0)[0].pixels
    guided = run(loaded("sd"), Recorder(tmp_path), guidance_scale=9.0)[0].pixels
    avoiding = run(loaded("sd"), Recorder(tmp_path), guidance_scale=9.0, negative_prompt="blue")[0].pixels
    assert not np.array_equal(plain, guided)
    assert not np.array_equal(guided, avoiding)


@pytest.mark.parametrize("kind", ["sd", "sdxl", "flux"])
def test_previews_are_small_pictures_of_what_there_is(kind: str, loaded: Any, tmp_path: Path) -> None:
    context = Recorder(tmp_path)
    often = {"preview_every": 2, "preview_seconds": 1e-9}
    with_previews = run(loaded(kind), context, steps=6, width=32, **often)[0].pixels
    assert [preview.pixels.shape for preview in context.previews] == [(8, 16, 3)] * 2
    assert np.array_equal(with_previews, run(loaded(kind), Recorder(tmp_path), steps=6, width=32)[0].pixels)


def test_the_metadata_make_the_picture_again(loaded: Any, tmp_path: Path) -> None:
    [image] = run(loaded("sd"), Recorder(tmp_path), negative_prompt="blue", guidance_scale=4.0)
    assert image.metadata == {
        "prompt": "a red apple",
        "negative_prompt": "blue",
        "guidance_scale": "4.0",
        "steps": "3",
        "seed": "3",
        "width": "16",
        "height": "16",
        "num_images": "1",
        "scheduler": "DDIM",
        "pipeline": "StableDiffusionPipeline",
    }


def test_what_a_model_costs_is_its_parameters_and_buffers(loaded: Any) -> None:
    pipeline = loaded("sd")
    assert DiffusionEngine().nbytes(pipeline) >= 4 * sum(
        parameter.numel() for parameter in pipeline.pipe.unet.parameters()
    )


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=str(tmp_path)):
        DiffusionEngine().load(model(tmp_path), tmp_path, Device())


def test_a_jobs_pipeline_is_its_own_and_knows_its_device(tmp_path: Path) -> None:
    load: Any = DiffusionPipeline.from_pretrained
    loaded = load(pipelines.save("sd", tmp_path))
    own = own_copy(loaded, copy.deepcopy(loaded.scheduler))
    assert type(own).__name__ == type(loaded).__name__ and isinstance(own, type(loaded))
    assert own.unet is loaded.unet and own.scheduler is not loaded.scheduler
    assert own._execution_device == loaded._execution_device
    assert "_execution_device" in vars(type(own))
    assert type(own_copy(loaded, own.scheduler)) is type(own)
