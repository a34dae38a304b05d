"""Text to image with any pipeline of diffusers, unmodified: the library's own ``__call__`` does the work."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging

from shared.catalog.models import Model
from shared.errors import JobError, ModelUnavailable
from worker.engines.base import Context, Device, Image, Progress, Result, Work
from worker.engines.memory import memory_errors, module_bytes
from worker.engines.schedulers import make_scheduler, scheduler_name

#: our name of an input → the pipelines' name
ARGUMENTS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "width": "width",
    "height": "height",
    "steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "num_images": "num_images_per_prompt",
}
#: handled here, not passed on
_OURS = {"seed", "scheduler", "preview_every", "exact"}
_from_pretrained: Any = DiffusionPipeline.from_pretrained  # the library leaves it untyped
#: largest side of the latents that are decoded for a preview
_PREVIEW_LATENTS = 32


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """A pipeline that no job changes, and what its catalog entry says of inputs."""

    pipe: Any
    #: names that the pipeline's ``__call__`` takes
    parameters: frozenset[str]
    defaults: Mapping[str, Any]

    @property
    def modules(self) -> list[torch.nn.Module]:
        return [part for part in self.pipe.components.values() if isinstance(part, torch.nn.Module)]


class DiffusionEngine:
    """Implements ``Engine`` for every text-to-image pipeline that ``DiffusionPipeline`` can load."""

    def load(self, model: Model, folder: Path | None, device: Device) -> LoadedPipeline:
        if folder is None:
            raise ModelUnavailable(f"model {model.id} names no folder of weights", retryable=False)
        diffusers_logging.disable_progress_bar()
        with memory_errors(f"loading {model.id}"):
            try:
                pipe = _from_pretrained(
                    folder,
                    dtype=getattr(torch, str(model.options.get("dtype", device.dtype))),
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=model.trust_remote_code,
                    **_left_out(folder),
                )
            except (OSError, ValueError, ImportError, AttributeError, KeyError) as error:
                raise ModelUnavailable(
                    f"model {model.id} cannot be loaded from {folder}: {error}", retryable=False
                ) from error
            pipe.to(device.name)
        pipe.set_progress_bar_config(disable=True)
        schema = model.input_schema.get("properties", {})
        return LoadedPipeline(
            pipe,
            frozenset(inspect.signature(type(pipe).__call__).parameters),
            {name: rule["default"] for name, rule in schema.items() if "default" in rule},
        )

    def nbytes(self, loaded: LoadedPipeline) -> int:
        return module_bytes(*loaded.modules)

    def run(self, loaded: LoadedPipeline, work: Work, context: Context) -> Result:
        """Images with the seeds ``seed``, ``seed + 1`` and so on."""
        arguments = _arguments(loaded, work.input)
        seed, count = int(work.input["seed"]), int(work.input.get("num_images", 1))
        pipe = copy.copy(loaded.pipe)  # its own scheduler and attributes, the same modules
        pipe.scheduler = make_scheduler(loaded.pipe.scheduler, work.input.get("scheduler"))
        # CPU generators give the same noise on every device
        generators = [torch.Generator("cpu").manual_seed(seed + i) for i in range(count)]
        _report_steps(pipe, loaded.parameters, arguments, work.input, context)
        with memory_errors(f"making {count} image(s) with {work.input.get('steps')} steps"):
            images = pipe(**arguments, generator=generators, output_type="pil").images
        pixels = [np.asarray(image.convert("RGB")) for image in images]
        return Result(
            outputs=tuple(
                Image(pixels=each, metadata=_metadata(pipe, work.input, seed + i, each.shape))
                for i, each in enumerate(pixels)
            )
        )


def _left_out(folder: Path) -> dict[str, None]:
    """Parts that the pipeline was saved without, SD3's T5 say: the library wants to be told so again."""
    index = folder / "model_index.json"
    parts = json.loads(index.read_text("utf-8")) if index.is_file() else {}
    return {name: None for name, origin in parts.items() if origin == [None, None]}


def _arguments(loaded: LoadedPipeline, given: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline's arguments. Raises JobError for an input that this pipeline cannot honour."""
    arguments = {}
    for name, value in given.items():
        if name in _OURS or value is None:
            continue
        argument = ARGUMENTS.get(name, name)
        if argument in loaded.parameters:
            arguments[argument] = value
        elif value != loaded.defaults.get(name, "" if name == "negative_prompt" else None):
            raise JobError(
                f"{type(loaded.pipe).__name__} takes no {name}; leave it out", type="invalid-input"
            )
    return arguments


def _report_steps(
    pipe: Any,
    parameters: frozenset[str],
    arguments: dict[str, Any],
    given: Mapping[str, Any],
    context: Context,
) -> None:
    """Make every step of the pipeline a boundary of the job."""
    steps = int(given.get("steps") or 0) or None
    every = int(given.get("preview_every") or 0)
    context.boundary(Progress("denoise", 0, steps))

    def after_step(running: Any, index: int, latents: torch.Tensor | None) -> None:
        total = getattr(running, "num_timesteps", None) or steps  # Heun takes two for each step
        if every and latents is not None and (index + 1) % every == 0 and index + 1 != total:
            _preview(running, latents, context)
        context.boundary(Progress("denoise", index + 1, total))

    if "callback_on_step_end" in parameters:

        def callback(running: Any, index: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
            after_step(running, index, values.get("latents"))
            return values

        arguments["callback_on_step_end"] = callback
        return
    # a pipeline that calls nobody back still calls its scheduler, which is this job's own
    taken, step = 0, pipe.scheduler.step

    @wraps(step)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        stepped = step(*args, **kwargs)
        taken += 1
        after_step(pipe, taken - 1, None)
        return stepped

    pipe.scheduler.step = counted


@torch.no_grad()
def _preview(pipe: Any, latents: torch.Tensor, context: Context) -> None:
    """Decode the first image's latents, made small. Latents that are packed into tokens have no preview."""
    vae = getattr(pipe, "vae", None)
    if vae is None or latents.ndim != 4 or "scaling_factor" not in vae.config:
        return
    small = latents[:1]
    side = max(small.shape[-2:])
    if side > _PREVIEW_LATENTS:
        small = torch.nn.functional.interpolate(
            small.float(), scale_factor=_PREVIEW_LATENTS / side, mode="area"
        )
    scaled = small.to(vae.dtype) / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
    [image] = pipe.image_processor.postprocess(vae.decode(scaled, return_dict=False)[0], output_type="pil")
    context.preview(Image(pixels=np.asarray(image.convert("RGB"))))


def _metadata(pipe: Any, given: Mapping[str, Any], seed: int, shape: tuple[int, ...]) -> dict[str, str]:
    """What makes this one image again."""
    shown = {name: value for name, value in given.items() if name in ARGUMENTS and value not in (None, "")}
    shown |= {
        "seed": seed,
        "width": shape[1],
        "height": shape[0],
        "num_images": 1,
        "scheduler": scheduler_name(pipe.scheduler),
        "pipeline": type(pipe).__name__,
    }
    return {name: str(value) for name, value in shown.items()}
