"""Unfinished pictures, cheaply: latents to colours by a small matrix, or by the autoencoder if it is tiny.

On a CPU even a tiny autoencoder takes as long as a third of a small model's step, so there it decodes within
an allowance of the time; what is due beyond that is shown by the matrix, at the same size.

The matrix is fitted once for an autoencoder: pictures of known colours are encoded, and least squares finds
the colour that each latent stands for. It is kept on disk, by what the autoencoder's weights are.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate

from worker.engines.allowance import Allowance

log = logging.getLogger(__name__)

#: seconds between two previews of a job that does not say
LEAST_SECONDS = 1.0
#: an autoencoder of at most so many parameters decodes previews itself
_TINY = 5_000_000
#: on a CPU, the part of the time that it may take for that, and seconds of it that may be saved up
_ALLOWED, _SAVED = 0.01, 0.01
#: largest side of the latents that a tiny autoencoder decodes for a preview
_DECODED_SIDE = 24
#: pictures that the matrix is fitted on, and their side in pixels
_PICTURES, _SIDE = 8, 128
#: parameters of the pipelines' methods that unpack latents, where we know what to give them
_UNPACKS = {"latents", "height", "width", "vae_scale_factor"}


@dataclass(frozen=True, slots=True)
class Projection:
    """``colours = latents @ weights + bias``, in -1 to 1; shapes (channels, 3) and (3,)."""

    weights: torch.Tensor
    bias: torch.Tensor

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """Of latents (channels, height, width), colours (3, height, width)."""
        weights, bias = self.weights.to(latents.device), self.bias.to(latents.device)
        return torch.einsum("chw,cr->rhw", latents.float(), weights) + bias[:, None, None]


class Previewer:
    """Makes previews for the jobs of one loaded pipeline."""

    def __init__(self, pipe: Any, cache: Path | None) -> None:
        """``cache``: a folder for the fitted matrix; None keeps it in memory alone."""
        self._vae: Any = getattr(pipe, "vae", None)
        self._is_tiny = _is_tiny(self._vae)
        self._cache = cache
        self._projection: Projection | None = None
        self._known = False
        self._allowance = Allowance(_ALLOWED, _SAVED)

    @torch.no_grad()
    def pixels(self, pipe: Any, latents: torch.Tensor, given: Mapping[str, Any]) -> NDArray[np.uint8] | None:
        """The first image of a pipeline's latents, (height, width, 3); None where it cannot be shown."""
        if (first := _first(pipe, latents, given)) is None or self._vae is None:
            return None
        if not self._is_tiny:
            return None if (colours := self._projected(first)) is None else _shown(colours)
        small = _made_small(first)
        if latents.device.type != "cpu":
            return _shown(_decoded(self._vae, small))
        if not self._allowance.is_left and (projected := self._projected(small)) is not None:
            return _as_large_as_decoded(self._vae, _shown(projected))
        with self._allowance.spend():
            return _shown(_decoded(self._vae, small))

    def _projected(self, latents: torch.Tensor) -> torch.Tensor | None:
        projection = self._fitted()
        if projection is None or projection.weights.shape[0] != latents.shape[0]:
            return None
        return projection(latents)

    def _fitted(self) -> Projection | None:
        if not self._known:
            self._known = True
            try:
                self._projection = _kept(self._vae, self._cache)
            except (AttributeError, TypeError, ValueError, RuntimeError) as error:
                log.warning("%s has no previews: %s", type(self._vae).__name__, error)
        return self._projection


class Pace:
    """When a job's next preview is due: at its steps, and not too soon after the last one."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._every = int(given.get("preview_every") or 0)
        self._seconds = float(given.get("preview_seconds") or LEAST_SECONDS)
        self._last: float | None = None

    def due(self, step: int, total: int | None, now: float | None = None) -> bool:
        """Whether to show the picture after ``step`` (from 1). The last step has none: the picture itself
        is there at once."""
        if not self._every or step % self._every or step == total:
            return False
        now = time.monotonic() if now is None else now
        if self._last is not None and now - self._last < self._seconds:
            return False
        self._last = now
        return True


def fit(vae: Any) -> Projection:
    """The projection that shows an autoencoder's latents best, as the pipelines scale them."""
    parameter = next(vae.parameters())
    pictures = _pictures().to(parameter.device, parameter.dtype)
    is_video = any(each.ndim == 5 for each in vae.parameters())
    encoded = vae.encode(pictures[:, :, None] if is_video else pictures)
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    latents = _as_in_pipelines(vae, latents[:, :, 0] if is_video else latents).float()
    colours = interpolate(pictures.float(), latents.shape[-2:], mode="area")
    known = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).cpu().double()
    wanted = colours.permute(0, 2, 3, 1).reshape(-1, 3).cpu().double()
    design = torch.cat([known, torch.ones(len(known), 1, dtype=known.dtype)], 1)
    # a ridge keeps channels that say nothing of colours near zero
    ridge = 1e-6 * len(design) * torch.eye(design.shape[1], dtype=design.dtype)
    solution = torch.linalg.solve(design.T @ design + ridge, design.T @ wanted).float()
    return Projection(solution[:-1].contiguous(), solution[-1].contiguous())


def _pictures() -> torch.Tensor:
    """Soft and hard patches of random colours, coarse and fine, shape (pictures, 3, side, side), -1 to 1."""
    random = torch.Generator().manual_seed(0)
    made = []
    for number in range(_PICTURES):
        cells = 2 + 2 * (number // 2)
        patches = 2.4 * torch.rand(1, 3, cells, cells, generator=random) - 1.2
        how: dict[str, Any] = (
            {"mode": "nearest"} if number % 2 else {"mode": "bicubic", "align_corners": True}
        )
        made.append(interpolate(patches, (_SIDE, _SIDE), **how).clamp(-1, 1))
    return torch.cat(made)


def _as_in_pipelines(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """An autoencoder's latents, (pictures, channels, height, width), as the denoiser sees them."""
    config = vae.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        shape = (1, -1, 1, 1)
        return (latents - torch.tensor(mean).to(latents).view(shape)) / torch.tensor(std).to(latents).view(
            shape
        )
    return (latents - (config.get("shift_factor") or 0.0)) * (config.get("scaling_factor") or 1.0)


def _first(pipe: Any, latents: torch.Tensor, given: Mapping[str, Any]) -> torch.Tensor | None:
    """The first image's latents, (channels, height, width); None for a form that nobody declared."""
    first = latents[:1]
    unpack = getattr(pipe, "_unpack_latents", None)
    if first.ndim == 3 and unpack is not None and set(inspect.signature(unpack).parameters) == _UNPACKS:
        scale = pipe.vae_scale_factor
        height, width = (
            int(given.get(side) or pipe.default_sample_size * scale) for side in ("height", "width")
        )
        first = unpack(first, height, width, scale)
    if first.ndim == 5:
        first = first[:, :, 0]
    return first[0] if first.ndim == 4 else None


def _is_tiny(vae: Any) -> bool:
    return type(vae).__name__ == "AutoencoderTiny" and sum(each.numel() for each in vae.parameters()) <= _TINY


def _shown(colours: torch.Tensor) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) of colours (3, height, width) in -1 to 1."""
    pixels: NDArray[np.uint8] = (
        ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    )
    return pixels


def _as_large_as_decoded(vae: Any, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = 2 ** (len(vae.config.decoder_block_out_channels) - 1)
    picture = PIL.Image.fromarray(pixels)
    size = (scale * picture.width, scale * picture.height)
    return np.asarray(picture.resize(size, PIL.Image.Resampling.BILINEAR))


def _made_small(latents: torch.Tensor) -> torch.Tensor:
    small = latents[None].float()
    if (side := max(small.shape[-2:])) > _DECODED_SIDE:
        small = interpolate(small, scale_factor=_DECODED_SIDE / side, mode="area")
    return small[0]


def _decoded(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Colours of latents as their own autoencoder decodes them."""
    scaled = latents[None].to(vae.dtype) / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
    colours: torch.Tensor = vae.decoder(scaled)[0]  # not ``decode``, which waits for others' calls
    return colours.float()


def _kept(vae: Any, cache: Path | None) -> Projection:
    """The fitted projection from disk, or fitted now and kept."""
    if cache is None:
        return fit(vae)
    path = cache / f"preview-{_fingerprint(vae)}.safetensors"
    try:
        saved = load_file(path)
        return Projection(saved["weights"], saved["bias"])
    except (OSError, SafetensorError, KeyError):
        projection = fit(vae)
    cache.mkdir(parents=True, exist_ok=True)
    # another worker may write the same file: the name changes hands only when all of it is there
    new = path.with_suffix(f".{time.monotonic_ns()}")
    save_file({"weights": projection.weights, "bias": projection.bias}, new)
    new.replace(path)
    return projection


def _fingerprint(vae: Any) -> str:
    """Of an autoencoder's configuration and a sample of every tensor: other weights give another one."""
    digest = hashlib.sha256(repr(sorted(vae.config.items(), key=str)).encode())
    for name, tensor in vae.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:24]
