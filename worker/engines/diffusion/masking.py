"""Painting a part of a picture anew: what the mask keeps is kept.

The library's inpainting pipelines take U-Nets of 4 or 9 channels alone. For others the image-to-image
pipeline does the same with ``Hold``: after each step, what the mask keeps is put back as the picture itself
at that step's noise (the rule of RePaint, arXiv 2201.09865, without its resampling).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray

#: channels that the denoiser of the library's inpainting pipelines for U-Nets may have
_LIBRARYS = (4, 9)


def needs_hold(pipe: Any) -> bool:
    """Whether the library's inpainting pipeline would refuse the model for the width of its latents."""
    unet = getattr(pipe, "unet", None)
    return unet is not None and unet.config.in_channels not in _LIBRARYS


class Hold:
    """Puts back what the mask keeps, after each step of one job's image-to-image pipeline."""

    def __init__(
        self,
        pipe: Any,
        image: PIL.Image.Image,
        mask: PIL.Image.Image,
        generators: Sequence[torch.Generator],
    ) -> None:
        """``generators``: one for each image; they are only used up here."""
        vae = pipe.vae
        with torch.no_grad():
            pixels = pipe.image_processor.preprocess(image).to(vae.device, vae.dtype)
            encoded = vae.encode(pixels)
            latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        #: of the picture without noise, shape (1, channels, height, width)
        self._latents = latents * vae.config.scaling_factor
        shape = (len(generators), *self._latents.shape[1:])
        self._noise = randn_tensor(
            shape, generator=list(generators), device=latents.device, dtype=latents.dtype
        )
        small = mask.resize((shape[3], shape[2]), PIL.Image.Resampling.BOX)
        #: 1 where it is painted anew, shape (height, width)
        self._mask = torch.from_numpy(np.asarray(small) >= 128).to(latents.device, latents.dtype)

    def __call__(self, pipe: Any, index: int, latents: torch.Tensor) -> torch.Tensor:
        """The latents after step ``index`` (from 0), with the kept part in them."""
        kept = self._latents.expand_as(self._noise)
        if index + 1 < pipe.num_timesteps:
            timesteps = pipe.scheduler.timesteps
            following = timesteps[len(timesteps) - pipe.num_timesteps + index + 1]
            kept = pipe.scheduler.add_noise(kept, self._noise, following.reshape(1))
        return torch.lerp(kept.to(latents.dtype), latents, self._mask.to(latents.dtype))


def keep_pixels(
    painted: NDArray[np.uint8], image: PIL.Image.Image, mask: PIL.Image.Image
) -> NDArray[np.uint8]:
    """The painted picture where the mask is white, the original where it is black, both where it is grey."""
    return np.asarray(PIL.Image.composite(PIL.Image.fromarray(painted), image, mask))
