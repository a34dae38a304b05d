"""Differentiable augmentation (Zhao et al. 2020): the discriminator sees neither a real picture nor a fake
as it is, so that it cannot learn a small data set by heart, and the gradient still reaches the generator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def augment(pictures: Tensor, draw: torch.Generator) -> Tensor:
    """Pictures (n, 3, size, size) in [-1, 1]: other brightness, contrast and place, and a square cut out."""
    return _cut(_shift(_colour(pictures, draw), draw), draw)


def _uniform(pictures: Tensor, draw: torch.Generator) -> Tensor:
    """A number in [-0.5, 0.5) for each picture, shaped to multiply it."""
    return (torch.rand(len(pictures), 1, 1, 1, generator=draw) - 0.5).to(pictures.device)


def _colour(pictures: Tensor, draw: torch.Generator) -> Tensor:
    pictures = pictures + 0.4 * _uniform(pictures, draw)
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    return (pictures - mean) * (1 + 0.6 * _uniform(pictures, draw)) + mean


def _shift(pictures: Tensor, draw: torch.Generator) -> Tensor:
    """By up to an eighth of the edge; what comes in is the picture's own border."""
    count, _, size, _ = pictures.shape
    most = max(1, size // 8)
    padded = functional.pad(pictures, (most,) * 4, mode="replicate")
    offsets = torch.randint(2 * most + 1, (count, 2), generator=draw)
    moved = [p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, offsets.tolist(), strict=True)]
    return torch.stack(moved)


def _cut(pictures: Tensor, draw: torch.Generator) -> Tensor:
    """A square of a third of the edge becomes grey, anywhere."""
    count, _, size, _ = pictures.shape
    edge = size // 3
    corner = torch.randint(1 - edge, size, (count, 2), generator=draw)
    along = torch.arange(size)
    inside = (along >= corner[:, :, None]) & (along < corner[:, :, None] + edge)
    hole = inside[:, 0, :, None] & inside[:, 1, None, :]
    return pictures * (~hole)[:, None].to(pictures)
