"""What needs a CUDA device; elsewhere each test is skipped and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.catalog.entries.model import Folder, Model
from tests.engines import pipelines, test_tasks
from tests.engines.test_arrange import Loaded, channels_are_last
from tests.engines.test_tasks import SIZE, difference, pixels
from tests.kiln.studio import Studio
from worker.engines.contract.engine import Image
from worker.engines.diffusion.engine import DiffusionEngine, LoadedPipeline
from worker.kiln.cost_profile import CostProfiles
from worker.kiln.devices import describe, each_device, find_device, memory_budget, release_memory
from worker.kiln.meter import peak_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch finds none here"),
]


JOBS = [
    {"prompt": "a", "seed": seed, "steps": 6, "guidance_scale": 4.0, "width": SIZE, "height": SIZE}
    for seed in range(4)
]


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions otherwise round float32 to 10 bits, which the pictures of random weights show."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def load(folder: Path, **options: Any) -> LoadedPipeline:
    model = Model(
        id="tiny",
        task="text-to-image",
        engine="diffusion",
        source=Folder(str(folder)),
        input_schema={},
        output="image/png",
        options=options,
    )
    return DiffusionEngine().load(model, folder, find_device("cuda"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.save("sd", tmp_path_factory.mktemp("sd"))


def test_every_gpu_gets_a_worker_and_auto_is_the_first() -> None:
    assert each_device() == [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    assert find_device("auto").name == "cuda:0"


def test_the_number_format_is_what_the_device_computes_natively() -> None:
    modern = torch.cuda.get_device_capability(0) >= (8, 0)
    assert find_device("cuda").dtype == ("bfloat16" if modern else "float16")


def test_a_gpu_makes_the_picture_that_the_cpu_makes(folder: Path, tmp_path: Path) -> None:
    loaded = load(folder, dtype="float32")
    assert next(loaded.pipe.unet.parameters()).is_cuda
    on_cpu = test_tasks.load(folder)  # a pipeline that has run stays where it is
    assert difference(pixels(loaded, tmp_path), pixels(on_cpu, tmp_path)) <= 2


def test_in_half_precision_channels_come_last(folder: Path, tmp_path: Path) -> None:
    loaded = load(folder)
    assert loaded.pipe.unet.dtype in (torch.bfloat16, torch.float16)
    assert channels_are_last(loaded.pipe.unet)
    assert pixels(loaded, tmp_path).shape == (SIZE, SIZE, 3)


def test_jobs_share_forwards_and_keep_their_pictures(folder: Path, tmp_path: Path) -> None:
    loaded = load(folder, dtype="float32")
    share(loaded, [pixels(loaded, tmp_path, **job) for job in JOBS], tmp_path)


def share(loaded: LoadedPipeline, alone: list[Any], folder: Path) -> None:
    """Let the jobs share, and compare with what each is alone."""
    with Studio(folder, Loaded(loaded), device=find_device("cuda")) as studio:
        outcomes = studio.together(JOBS)
        assert studio.kiln.forwards["shared"] > 0
    for outcome, expected in zip(outcomes, alone, strict=True):
        assert outcome.result is not None, outcome.trace
        [image] = outcome.result.outputs
        assert isinstance(image, Image) and difference(image.pixels, expected) <= 2


@pytest.mark.parametrize("how", ["model", "group"])
def test_weights_that_stay_in_main_memory_come_when_they_are_used(
    how: str, folder: Path, tmp_path: Path
) -> None:
    plain = load(folder, dtype="float32")
    alone = [pixels(plain, tmp_path, **job) for job in JOBS]
    loaded = load(folder, dtype="float32", offload=how)
    assert loaded.nbytes < plain.nbytes
    assert next(loaded.pipe.vae.parameters()).is_cuda
    assert not any(parameter.is_cuda for parameter in loaded.pipe.unet.parameters())
    share(loaded, alone, tmp_path)
    encoder = loaded.pipe.text_encoder
    assert not any(parameter.is_cuda for parameter in encoder.parameters()), "the denoiser needed the room"
    assert all(parameter.is_pinned() for parameter in encoder.parameters())


def test_what_a_call_takes_beside_the_weights_is_measured(folder: Path, tmp_path: Path) -> None:
    device = find_device("cuda")
    loaded = load(folder, dtype="float32")
    x, weights = torch.zeros(1 << 20, device=device.name), loaded.nbytes
    with peak_memory(device) as peak:
        (x + 1) * 2
    assert 8 << 20 <= peak.nbytes < 9 << 20
    profiles, budget = CostProfiles(None, describe(device)), weights + (1 << 30)
    with Studio(tmp_path, Loaded(loaded), device=device, budget=budget, profiles=profiles) as studio:
        studio.together(JOBS)
    assert 0 < profiles.peak("m") < 1 << 30


def test_a_compiled_denoiser_makes_the_same_picture(folder: Path, tmp_path: Path) -> None:
    plain, compiled = load(folder, dtype="float32"), load(folder, dtype="float32", compile=True)
    assert difference(pixels(plain, tmp_path), pixels(compiled, tmp_path)) <= 2


def test_previews_come_from_the_device(folder: Path) -> None:
    loaded = load(folder)
    latents = torch.randn(1, 4, 8, 8, device="cuda", dtype=loaded.pipe.unet.dtype)
    shown = loaded.previewer.pixels(loaded.pipe, latents, {})
    assert shown is not None and shown.shape == (8, 8, 3) and shown.dtype == np.uint8


def test_what_an_evicted_model_held_is_given_back(folder: Path) -> None:
    device = find_device("cuda")
    release_memory(device)
    before = torch.cuda.memory_allocated()
    loaded = load(folder)
    assert torch.cuda.memory_allocated() > before
    del loaded
    release_memory(device)
    assert torch.cuda.memory_allocated() == before
    assert 0 < memory_budget(device, 0) < torch.cuda.mem_get_info()[1]
