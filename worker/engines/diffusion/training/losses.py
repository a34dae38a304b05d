"""What the two stages of a text-to-image training minimise, and how their batches are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from worker.engines.diffusion.training.networks import Net
from worker.engines.training.loop import autocast

EMPTY_CAPTIONS = 0.1  #: the share of captions left empty, for guidance without a classifier


def pick(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` rows, drawn as often as their weights say."""
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def reconstruction_loss(vae: Net, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels, their differences (edges), and latents held at mean 0 and deviation 1 within ±2.8.

    A little noise on the latents makes the decoder forgive what the denoiser leaves."""
    with autocast(pixels.device.type):
        latents = vae.encoder(pixels)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        back = vae.decoder(latents + 0.05 * noise).float()
    latents = latents.float()
    spread = latents.std((0, 2, 3)) - 1
    held = latents.mean((0, 2, 3)).square().mean() + spread.square().mean()
    held = held + functional.relu(latents.abs() - 2.8).square().mean()
    near = functional.l1_loss(back, pixels) + 2 * functional.mse_loss(back, pixels)
    loss: Tensor = near + 0.4 * _edge_loss(back, pixels) + 0.1 * held
    return loss


def _edge_loss(a: Tensor, b: Tensor) -> Tensor:
    """L1 between the differences of neighbours, at full and at half size."""
    total = a.new_zeros(())
    for _ in range(2):
        total = (
            total
            + functional.l1_loss(a.diff(dim=-1), b.diff(dim=-1))
            + functional.l1_loss(a.diff(dim=-2), b.diff(dim=-2))
        )
        a, b = functional.avg_pool2d(a, 2), functional.avg_pool2d(b, 2)
    return total


@torch.no_grad()
def latents_of(vae: Net, pixels: Tensor) -> Tensor:
    """uint8 (n, 3, size, size) → float32 latents."""
    images = pixels.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
    latents: Tensor = vae.encode(images).latents.float().contiguous()
    return latents


def batch_of(
    picked: Tensor,
    places: Tensor,
    latents: Tensor,
    ids: Sequence[Tensor],
    empty: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Latents and the token ids of one caption for each of the picked rows; ``places`` says which latents are
    a row's."""
    choice = torch.rand(len(picked), generator=generator).tolist()
    dropped = torch.rand(len(picked), generator=generator).tolist()
    captions = [
        empty if drop < EMPTY_CAPTIONS else ids[row][int(share * len(ids[row]))]
        for row, share, drop in zip(picked.tolist(), choice, dropped, strict=True)
    ]
    return latents[places[picked]], torch.stack(captions)


def denoising_loss(
    unet: Net,
    text: Net,
    latents: Tensor,
    captions: Tensor,
    alphas: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of v = √ᾱ·noise − √(1 − ᾱ)·latents (arXiv 2202.00512) at random times.

    Times near pure noise are drawn most (density 2t): there the caption decides what the picture is, while
    below the middle the loss is nearly the same for a wrong caption."""
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    late = torch.rand(len(latents), generator=generator).sqrt()
    times = (late * len(alphas)).long().clamp(max=len(alphas) - 1).to(latents.device)
    signal = alphas[times].sqrt().view(-1, 1, 1, 1)
    blur = (1 - alphas[times]).sqrt().view(-1, 1, 1, 1)
    noisy = (signal * latents + blur * noise).contiguous(memory_format=torch.channels_last)
    predicted = unet(noisy, times, text(captions)[0]).sample
    loss: Tensor = functional.mse_loss(predicted.float(), signal * noise - blur * latents)
    return loss
