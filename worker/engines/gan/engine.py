"""Pictures from a GAN's generator: a folder with ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.catalog.entries.model import Model
from shared.errors import InvalidInput, ModelUnavailable
from worker.engines.contract.engine import Context, Device, Image, Progress, Result, Work
from worker.engines.gan.networks import Generator, Shape
from worker.engines.memory import memory_errors, module_bytes
from worker.engines.weights import check

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
KIND = "qanvas-gan"


class GanEngine:
    """The engine of ``unconditional-image-generation``."""

    def load(self, model: Model, folder: Path | None, device: Device) -> Generator:
        if folder is None:
            raise ModelUnavailable(f"model {model.id} has no files; name a folder or a hub repository")
        try:
            with memory_errors(f"loading {model.id}"):
                return read_generator(folder).to(device.name, getattr(torch, device.dtype)).eval()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ModelUnavailable(f"model {model.id} cannot be read: {error}", retryable=False) from error

    def nbytes(self, loaded: Generator) -> int:
        return module_bytes(loaded)

    def run(self, loaded: Generator, work: Work, context: Context) -> Result:
        given, count = work.input, work.input["num_images"]
        labels, truncation = loaded.shape.labels, given["truncation"]
        wanted = given.get("label")
        if wanted is not None and wanted not in labels:
            allowed = f"one of {', '.join(labels)}" if labels else "left out: this model knows no labels"
            raise InvalidInput.at("/input/label", f"must be {allowed}")
        images = []
        for index in range(count):
            context.boundary(Progress("generate", index, count))
            seed = given["seed"] + index
            draw = torch.Generator().manual_seed(seed)
            latent = torch.randn(1, loaded.shape.latent, generator=draw) * truncation
            label = int(torch.randint(max(1, len(labels)), (1,), generator=draw))
            label = labels.index(wanted) if wanted is not None else label
            metadata = {"seed": str(seed), "truncation": str(truncation)}
            if labels:
                metadata["label"] = labels[label]
            pixels = context.compute(partial(_picture, loaded, latent, label), "generating")
            images.append(Image(pixels=pixels, metadata=metadata))
        context.boundary(Progress("generate", count, count))
        return Result(outputs=tuple(images))


@torch.inference_mode()
def _picture(generator: Generator, latent: Tensor, label: int) -> NDArray[np.uint8]:
    """One picture at a time, so that none depends on what else is in its batch: uint8 (size, size, 3)."""
    weight = generator.first.weight
    drawn = generator(latent.to(weight), torch.tensor([label], device=weight.device))
    pixels = ((drawn[0].float().cpu().permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
    return np.asarray(pixels.to(torch.uint8).contiguous())


def read_generator(folder: Path) -> Generator:
    """Raises ModelUnavailable where tensors are missing; OSError, ValueError, KeyError, SafetensorError or
    RuntimeError for a folder that is not ours."""
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    if config.get("model_type") != KIND:
        raise ValueError(f"{CONFIG} says model_type {config.get('model_type')!r}, not {KIND!r}")
    generator = Generator(Shape.of(config))
    found = generator.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    check(f"the generator in {folder.name}", found.missing_keys, found.unexpected_keys)
    return generator


def write_generator(generator: Generator, folder: Path, **facts: Any) -> None:
    """What ``read_generator`` reads, float16; ``facts`` are told in the config."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in generator.state_dict().items()}
    save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    config = {"model_type": KIND, **asdict(generator.shape), **facts}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
