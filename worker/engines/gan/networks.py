"""The two networks of a GAN: a DCGAN's generator and discriminator, with classes.

Radford et al. 2016 (DCGAN), with self-modulated normalisation (Chen et al. 2019) in the generator, and in
the discriminator a projection for the class (Miyato & Koyama 2018) and the deviation within the batch
(Karras et al. 2018), which tells it when all fakes look alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

LABEL_WIDTH = 32
FIRST = 4  # edge of the first picture that is drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What ``config.json`` of a model says."""

    image_size: int
    latent: int
    width: int
    labels: tuple[str, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        return cls(
            image_size=int(config["image_size"]),
            latent=int(config["latent"]),
            width=int(config["width"]),
            labels=tuple(config["labels"]),
        )

    @property
    def widths(self) -> list[int]:
        """Channels at edges 4, 8, … up to half of the picture's."""
        doublings = (self.image_size // FIRST).bit_length() - 1
        return [self.width * min(2**i, 8) for i in reversed(range(doublings))]


class Modulation(nn.Module):
    """Batch normalisation whose gain and bias come from the latent and the label."""

    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.affine = nn.Linear(style, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.02)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        gain, bias = self.affine(style)[:, :, None, None].chunk(2, dim=1)
        return cast(Tensor, self.norm(x) * (1 + gain) + bias)


class Generator(nn.Module):
    """Latents (n, latent) and labels int64 (n,) → pictures (n, 3, size, size) in [-1, 1]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        widths = shape.widths
        style = shape.latent + (LABEL_WIDTH if shape.labels else 0)
        if shape.labels:
            self.label = nn.Embedding(len(shape.labels), LABEL_WIDTH)
        self.first = nn.Linear(style, widths[0] * FIRST * FIRST)
        self.norms = nn.ModuleList([Modulation(w, style) for w in widths])
        self.ups = nn.ModuleList(
            [
                nn.ConvTranspose2d(a, b, 4, stride=2, padding=1)
                for a, b in zip(widths, [*widths[1:], shape.width // 2], strict=True)
            ]
        )
        self.last = nn.Conv2d(shape.width // 2, 3, 3, padding=1)

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        style = torch.cat([latent, self.label(label)], dim=1) if self.shape.labels else latent
        x = self.first(style).unflatten(1, (-1, FIRST, FIRST))
        for norm, up in zip(self.norms, self.ups, strict=True):
            x = up(functional.relu(norm(x, style)))
        return torch.tanh(self.last(functional.leaky_relu(x, 0.2)))


class Discriminator(nn.Module):
    """Pictures (n, 3, size, size) and labels → logits (n,): above 0 says real."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        widths = [*reversed(shape.widths)]
        self.downs = nn.ModuleList(
            [nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip([3, *widths[:-1]], widths, strict=True)]
        )
        self.mix = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.judge = nn.Linear(widths[-1] * FIRST * FIRST, 1 + (LABEL_WIDTH if shape.labels else 0))
        if shape.labels:
            self.label = nn.Embedding(len(shape.labels), LABEL_WIDTH)
        self.classes = len(shape.labels)

    def forward(self, pictures: Tensor, label: Tensor) -> Tensor:
        x = pictures
        for down in self.downs:
            x = functional.leaky_relu(down(x), 0.2)
        x = functional.leaky_relu(self.mix(torch.cat([x, _deviation(x)], dim=1)), 0.2)
        verdict = self.judge(x.flatten(1))
        logit: Tensor = verdict[:, 0]
        if self.classes:
            logit = logit + (verdict[:, 1:] * self.label(label)).sum(1) / LABEL_WIDTH**0.5
        return logit


def _deviation(x: Tensor) -> Tensor:
    """One channel: how much the pictures of this batch differ, the same number everywhere."""
    spread = (x.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    return spread.expand(len(x), 1, *x.shape[2:])
