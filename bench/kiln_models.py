"""The models that ``bench.kiln`` compares on: one whose step underuses the device, the starter, and one whose
step fills the device with a single picture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from tests.engines import pipelines
from worker.engines.contract.engine import Device

STARTER = Path(__file__).parents[1] / "starters" / "image"


@dataclass(frozen=True, slots=True)
class Subject:
    """``equal``, ``mixed``: the steps that requests ask for."""

    #: part of the name of its plot
    key: str
    title: str
    make: Callable[[], Any]
    equal: tuple[int, ...] = (10,)
    mixed: tuple[int, ...] = (4, 8, 12, 16)
    loads: tuple[float, ...] = (0.7, 1.5, 3.0)
    #: those at which aims are set: they are measured longer
    decisive: tuple[float, ...] = ()
    #: of a request that is alone
    lone: int = 10
    guidance: float = 1.0

    def saved(self, folder: Path) -> Path:
        """Where the pipeline's files lie; saved into ``folder`` where it has none yet."""
        if self.key == "starter-image":
            return STARTER
        self.make().save_pretrained(folder / "pipeline")
        return folder / "pipeline"


def subjects(device: Device) -> Iterator[Subject]:
    """A GPU is filled by a larger picture than a CPU."""
    on_gpu = device.name != "cpu"
    channels, side = ((320, 640, 1280), 128) if on_gpu else ((96, 192), 32)
    yield Subject(
        "step-bound",
        "step-bound, 1 M parameters at 8²",
        lambda: random_unet((32, 64), 8, device),
        decisive=(3.0,),
        lone=20,
    )
    yield Subject("starter-image", "starter-image, 16²", lambda: starter(device), lone=16, guidance=3.0)
    yield Subject(
        "compute-bound",
        f"compute-bound, {402 if on_gpu else 9} M parameters at {side}²",
        lambda: random_unet(channels, side, device),
        equal=(4,),
        mixed=(2, 3, 5, 6),
        loads=(0.7, 0.85, 1.5, 3.0),
        decisive=(0.85,),
        lone=4,
    )


def random_unet(channels: tuple[int, ...], latents: int, device: Device) -> Any:
    """A Stable Diffusion whose denoiser has these channels and works on latents of this side."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        pipe = pipelines.stable_diffusion(Path(folder))
    pipe.register_modules(unet=denoiser(channels, latents))
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            torch.nn.Module.to(part, getattr(torch, device.dtype))
    return _ready(pipe, device)


def denoiser(channels: tuple[int, ...], latents: int) -> Any:
    """A U-Net of random weights in evaluation mode; its texts have 32 numbers a token."""
    attend = len(channels) - 1
    make: Any = UNet2DConditionModel
    return make(
        sample_size=latents,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * attend),
        up_block_types=(*["CrossAttnUpBlock2D"] * attend, "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=16,
    ).eval()


def starter(device: Device) -> Any:
    """``starter-image`` as it comes with the package."""
    load: Any = StableDiffusionPipeline.from_pretrained
    return _ready(load(STARTER, dtype=getattr(torch, device.dtype), local_files_only=True), device)


def _ready(pipe: Any, device: Device) -> Any:
    pipe.to(device.name)
    pipe.set_progress_bar_config(disable=True)
    return pipe
