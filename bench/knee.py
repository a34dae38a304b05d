"""What a forward of several pictures gains: ``python -m bench.knee`` writes bench/results/knee.md.

Denoisers of random weights in the device's number format, one row for each picture, so many forwards of each
number of rows by turns. ``--device cuda`` measures the published sizes of Stable Diffusion, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel

from bench.kiln_models import denoiser
from bench.report import on_device, table, write_result
from worker.engines.contract.engine import Device
from worker.kiln.devices import describe, find_device
from worker.kiln.meter import settle

BATCHES = (1, 2, 4, 8, 16)


class Size(NamedTuple):
    """``side`` of the latents, of which eight times as many pixels are made; ``text``: numbers a token."""

    title: str
    make: Callable[[], Any]
    side: int
    text: int = 32


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.knee", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each denoiser")
    options = parser.parse_args(given)
    device = find_device(options.device)
    rows = [["denoiser", "ms of one", *(f"batch of {batch}" for batch in BATCHES[1:])]]
    for size in sizes(device):
        rows.append([size.title, *_gains(size, device, options.seconds)])
        print(*rows[-1], sep=" | ", flush=True)
    text = f"On {describe(device)}:\n\n{table(rows)}"
    print(text)
    write_result(on_device("knee", device), text)


def sizes(device: Device) -> Iterator[Size]:
    """The published ones are for a GPU."""
    for title, channels, side in (
        ("U-Net, 1.0 M parameters, 8 × 8 latents", (32, 64), 8),
        ("U-Net, 3.9 M, 16 × 16", (64, 128), 16),
        ("U-Net, 15.5 M, 32 × 32", (128, 256), 32),
    ):
        yield Size(title, partial(denoiser, channels, side), side)
    if device.name != "cpu":
        yield Size("Stable Diffusion 1.5, 860 M, 64 × 64 (512² pixels)", stable_diffusion, 64, 768)
        yield Size("Stable Diffusion XL, 2.6 B, 64 × 64 (512²)", stable_diffusion_xl, 64, 2048)
        yield Size("Stable Diffusion XL, 2.6 B, 128 × 128 (1024²)", stable_diffusion_xl, 128, 2048)


def stable_diffusion() -> Any:
    """The denoiser of Stable Diffusion 1.5 as its published configuration says."""
    return _unet(cross_attention_dim=768, attention_head_dim=8)


def stable_diffusion_xl() -> Any:
    """The denoiser of Stable Diffusion XL as its published configuration says."""
    return _unet(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _unet(**config: Any) -> Any:
    make: Any = UNet2DConditionModel
    return make(**config).eval()


@torch.inference_mode()
def _gains(size: Size, device: Device, seconds: float) -> list[str]:
    """Milliseconds of one row, then pictures a second of each batch to those one by one: of medians."""
    with torch.device(device.name):
        module = size.make()
        torch.nn.Module.to(module, getattr(torch, device.dtype))
    took: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    calls = {batch: _call(size, batch, device) for batch in BATCHES}
    for call in calls.values():  # makes plans and buffers
        module(**call)
    settle(device)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(took[1]) < 3:
        for batch, call in calls.items():
            began = time.perf_counter()
            module(**call)
            settle(device)
            took[batch].append(time.perf_counter() - began)
    one = statistics.median(took[1])
    gains = (batch * one / statistics.median(took[batch]) for batch in BATCHES[1:])
    return [f"{1000 * one:.1f}", *(f"× {gain:.2f}" for gain in gains)]


def _call(size: Size, rows: int, device: Device) -> dict[str, Any]:
    kind: dict[str, Any] = {"device": device.name, "dtype": getattr(torch, device.dtype)}
    call: dict[str, Any] = {
        "sample": torch.randn(rows, 4, size.side, size.side, **kind),
        "timestep": torch.full((rows,), 500, device=device.name),
        "encoder_hidden_states": torch.randn(rows, 77, size.text, **kind),
    }
    if size.make is stable_diffusion_xl:
        sizes = torch.full((rows, 6), 8 * size.side, **kind)
        call["added_cond_kwargs"] = {"text_embeds": torch.randn(rows, 1280, **kind), "time_ids": sizes}
    return call


if __name__ == "__main__":
    main()
