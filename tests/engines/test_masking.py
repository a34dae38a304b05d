"""Painting a part anew, with models that the library's inpainting pipelines refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from numpy.typing import NDArray

from tests.engines import pipelines
from tests.engines.contexts import Recorder
from tests.engines.test_tasks import SIZE, left_half, load, picture
from worker.engines.contract.engine import Image, Progress, Work
from worker.engines.diffusion.engine import DiffusionEngine, LoadedPipeline
from worker.engines.diffusion.masking import needs_hold


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> LoadedPipeline:
    """Stable Diffusion with a tiny autoencoder of 8 channels, as ``starter-image``."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    pipe = pipelines.stable_diffusion(folder / "tokenizer-files")
    pipe.unet = UNet2DConditionModel.from_config(pipe.unet.config, in_channels=8, out_channels=8)
    pipe.vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=8,
    )
    pipe.save_pretrained(folder / "pipeline", safe_serialization=True)
    return load(folder / "pipeline")


def inpaint(
    loaded: LoadedPipeline, folder: Path, mask: PIL.Image.Image, **changes: Any
) -> list[NDArray[np.uint8]]:
    given = {
        "prompt": "a",
        "seed": 3,
        "steps": 4,
        "guidance_scale": 4.0,
        "strength": 1.0,
        "image": picture(),
        "mask": mask,
        "width": SIZE,
        "height": SIZE,
    }
    work = Work(job_id="j", task="inpainting", input=given | changes)
    outputs = DiffusionEngine().run(loaded, work, Recorder(folder)).outputs
    return [output.pixels for output in outputs if isinstance(output, Image)]


def test_what_is_black_is_kept_to_the_pixel_and_what_is_white_is_new(
    wide: LoadedPipeline, tmp_path: Path
) -> None:
    assert needs_hold(wide.pipe)
    one, other = (inpaint(wide, tmp_path, left_half(), seed=seed)[0] for seed in (3, 4))
    original, half = np.asarray(picture()), SIZE // 2
    assert np.array_equal(one[:, half:], original[:, half:])
    assert not np.array_equal(one[:, :half], original[:, :half])
    assert not np.array_equal(one[:, :half], other[:, :half])


def test_the_kept_part_leads_what_is_painted_beside_it(wide: LoadedPipeline, tmp_path: Path) -> None:
    red, blue = (
        inpaint(wide, tmp_path, left_half(), image=picture(colour))[0]
        for colour in ((255, 0, 0), (0, 0, 255))
    )
    assert not np.array_equal(red[:, : SIZE // 2], blue[:, : SIZE // 2])


def test_grey_is_a_blend(wide: LoadedPipeline, tmp_path: Path) -> None:
    grey = PIL.Image.new("L", (SIZE, SIZE), 128)
    white = PIL.Image.new("L", (SIZE, SIZE), 255)
    half, full = (inpaint(wide, tmp_path, mask)[0].astype(int) for mask in (grey, white))
    expected = (full + np.asarray(picture()).astype(int)) / 2
    assert np.abs(half - expected).max() <= 2


def test_several_images_can_each_be_made_again(wide: LoadedPipeline, tmp_path: Path) -> None:
    images = inpaint(wide, tmp_path, left_half(), num_images=2)
    [alone] = inpaint(wide, tmp_path, left_half(), seed=4)
    assert np.abs(alone.astype(int) - images[1].astype(int)).max() <= 1


@pytest.mark.parametrize("scheduler", ["Heun", "EulerAncestral", "DPMSolverMultistep"])
def test_it_works_with_schedulers_that_count_otherwise(
    scheduler: str, wide: LoadedPipeline, tmp_path: Path
) -> None:
    [image] = inpaint(wide, tmp_path, left_half(), scheduler=scheduler, strength=0.6, steps=6)
    assert np.array_equal(image[:, SIZE // 2 :], np.asarray(picture())[:, SIZE // 2 :])


def test_its_steps_are_boundaries_as_any(wide: LoadedPipeline, tmp_path: Path) -> None:
    context = Recorder(tmp_path)
    given = {"prompt": "a", "seed": 1, "steps": 4, "strength": 0.5, "image": picture(), "mask": left_half()}
    DiffusionEngine().run(wide, Work(job_id="j", task="inpainting", input=given), context)
    assert context.progress == [Progress("denoise", 0, 4), *(Progress("denoise", i, 2) for i in (1, 2))]
