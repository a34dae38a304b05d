"""Pictures with any pipeline of diffusers, unmodified: the library's own ``__call__`` does the work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging

from shared.catalog.entries.model import Model
from shared.errors import JobError, ModelUnavailable
from worker.engines.batching.patches import install, taking_part
from worker.engines.contract.engine import (
    Context,
    Device,
    Image,
    Progress,
    Result,
    Stopped,
    StopReason,
    Work,
)
from worker.engines.diffusion.adapters import Active, Adapters
from worker.engines.diffusion.job_pipeline import own_copy
from worker.engines.diffusion.masking import Hold, keep_pixels, needs_hold
from worker.engines.diffusion.previews import Pace, Previewer
from worker.engines.diffusion.resume import Checkpoints
from worker.engines.diffusion.schedulers import make_scheduler, scheduler_name
from worker.engines.diffusion.variants import let_clip_skip, parameters_of, pipeline_for, with_controlnet
from worker.engines.memory import memory_errors
from worker.engines.placement.layout import arrange
from worker.engines.placement.offload import place
from worker.engines.weights import complete

#: our name of an input → the pipelines' name
ARGUMENTS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "width": "width",
    "height": "height",
    "steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "num_images": "num_images_per_prompt",
    "image": "image",
    "mask": "mask_image",
    "strength": "strength",
    "clip_skip": "clip_skip",
    "control_image": "control_image",
    "controlnet_conditioning_scale": "controlnet_conditioning_scale",
}
#: handled here, not passed on
_OURS = {"seed", "scheduler", "preview_every", "preview_seconds", "exact", "loras"}
_from_pretrained: Any = DiffusionPipeline.from_pretrained  # the library leaves it untyped


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """A pipeline that no job changes, its adapters, and what its catalog entry says of inputs."""

    pipe: Any
    adapters: Adapters
    previewer: Previewer
    defaults: Mapping[str, Any]
    #: bytes that it takes on the device
    nbytes: int
    #: pipelines of the same modules for other tasks, made when a job first asks for one
    others: dict[str, Any] = field(default_factory=dict)

    def pipeline(self, task: str) -> Any:
        """The pipeline for a task. Raises ModelUnavailable."""
        if task == "inpainting" and needs_hold(self.pipe):
            task = "image-to-image"
        if task not in self.others:
            self.others[task] = pipeline_for(self.pipe, task)
        return self.others[task]


class DiffusionEngine:
    """Implements ``Engine`` for every text-to-image pipeline that ``DiffusionPipeline`` can load."""

    def load(self, model: Model, folder: Path | None, device: Device) -> LoadedPipeline:
        if folder is None:
            raise ModelUnavailable(f"model {model.id} names no folder of weights", retryable=False)
        diffusers_logging.disable_progress_bar()
        with complete(f"model {model.id}"):
            pipe = _from_pretrained(
                folder,
                dtype=getattr(torch, str(model.options.get("dtype", device.dtype))),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=model.trust_remote_code,
                **_left_out(folder),
            )
        with memory_errors(f"loading {model.id}"):
            if (controlnet := model.options.get("controlnet")) is not None:
                pipe = with_controlnet(pipe, Path(controlnet), pipe.dtype)
            arrange(pipe, device, model.options)
            nbytes = place(pipe, device, model.options.get("offload"))
        pipe.set_progress_bar_config(disable=True)
        install(pipe)
        rules = [schema.get("properties", {}) for schema in model.schemas.values()]
        defaults = {
            name: rule["default"] for known in rules for name, rule in known.items() if "default" in rule
        }
        cache = model.options.get("cache")
        previewer = Previewer(pipe, None if cache is None else Path(cache))
        return LoadedPipeline(pipe, Adapters(pipe), previewer, defaults, nbytes)

    def nbytes(self, loaded: LoadedPipeline) -> int:
        return loaded.nbytes

    def run(self, loaded: LoadedPipeline, work: Work, context: Context) -> Result:
        """Images with the seeds ``seed``, ``seed + 1`` and so on."""
        scheduler = make_scheduler(loaded.pipe.scheduler, work.input.get("scheduler"))
        pipe = own_copy(loaded.pipeline(work.task), scheduler)
        arguments = _arguments(pipe, loaded.defaults, work.input)
        if work.input.get("clip_skip"):
            let_clip_skip(pipe)
        seed, count = int(work.input["seed"]), int(work.input.get("num_images", 1))
        if count > 1 and "image" in work.input:
            # one for each generator: some families want that, and all give each image its own seed's noise
            arguments["image"] = [work.input["image"]] * count
        adapters = loaded.adapters.load(work.input.get("loras") or ())
        # CPU generators give the same noise on every device
        generators = [torch.Generator("cpu").manual_seed(seed + i) for i in range(count)]
        own = _OwnTurns(context, loaded.adapters, adapters)
        hold = _hold(pipe, work.input, seed, count)
        saved = Checkpoints(context, generators)
        _report_steps(pipe, arguments, work.input, own, hold, loaded.previewer, saved)
        doing = f"making {count} image(s) with {work.input.get('steps')} steps"
        ready = partial(loaded.adapters.activate, adapters)
        with memory_errors(doing), taking_part(context, state=adapters, ready=ready, calls=saved.calls):
            try:
                images = pipe(**arguments, generator=generators, output_type="pil").images
            except Stopped as stopped:
                if stopped.reason is StopReason.DRAINING:
                    saved.write()
                raise
        pixels = [np.asarray(image.convert("RGB")) for image in images]
        if (mask := work.input.get("mask")) is not None:
            pixels = [keep_pixels(each, work.input["image"], mask) for each in pixels]
        return Result(
            outputs=tuple(
                Image(pixels=each, metadata=_metadata(pipe, work.input, seed + i, each.shape))
                for i, each in enumerate(pixels)
            )
        )


class _OwnTurns:
    """The job's line to the kiln: when its turn comes again, its own adapters are active."""

    def __init__(self, context: Context, adapters: Adapters, active: Active) -> None:
        self._context, self._adapters, self._active = context, adapters, active
        self.preview = context.preview

    def boundary(self, progress: Progress) -> None:
        self._context.boundary(progress)
        self._adapters.activate(self._active)


def _left_out(folder: Path) -> dict[str, None]:
    """Parts that the pipeline was saved without, SD3's T5 say: the library wants to be told so again."""
    index = folder / "model_index.json"
    parts = json.loads(index.read_text("utf-8")) if index.is_file() else {}
    return {name: None for name, origin in parts.items() if origin == [None, None]}


def _arguments(pipe: Any, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline's arguments. Raises JobError for an input that this pipeline cannot honour."""
    parameters = parameters_of(pipe)
    names = dict(ARGUMENTS)
    if "control_image" not in parameters:
        names["control_image"] = "image"  # where there is one picture alone, this is it
    # said by the picture, and done by ``Hold``, where the pipeline does not take them
    settled = {"width", "height", "mask"} if given.get("image") is not None else set()
    arguments = {}
    for name, value in given.items():
        if name in _OURS or value is None:
            continue
        argument = names.get(name, name)
        if argument in parameters:
            arguments[argument] = value
        elif name not in settled and value != defaults.get(name, "" if name == "negative_prompt" else None):
            raise JobError(f"{type(pipe).__name__} takes no {name}; leave it out", type="invalid-input")
    _check_strength(given)
    _check_clip_skip(pipe, given.get("clip_skip"))
    return arguments


def _hold(pipe: Any, given: Mapping[str, Any], seed: int, count: int) -> Hold | None:
    """What keeps the unmasked part, for a pipeline that knows no masks."""
    if given.get("mask") is None or "mask_image" in parameters_of(pipe):
        return None
    generators = [torch.Generator("cpu").manual_seed(seed + i) for i in range(count)]
    return Hold(pipe, given["image"], given["mask"], generators)


def _check_strength(given: Mapping[str, Any]) -> None:
    strength, steps = given.get("strength"), given.get("steps")
    if strength is not None and steps and int(steps * strength) < 1:
        raise JobError(
            f"strength: {strength:g} of {steps} steps is less than one step; "
            f"give at least {1 / steps:.3g}, or more steps",
            type="invalid-input",
        )


def _check_clip_skip(pipe: Any, skipped: int | None) -> None:
    layers = getattr(getattr(getattr(pipe, "text_encoder", None), "config", None), "num_hidden_layers", None)
    if skipped and layers is not None and skipped >= layers:
        raise JobError(
            f"clip_skip: {skipped} is not possible, the text encoder has {layers} layers; "
            f"at most {layers - 1} are left out",
            type="invalid-input",
        )


def _report_steps(
    pipe: Any,
    arguments: dict[str, Any],
    given: Mapping[str, Any],
    context: _OwnTurns,
    hold: Hold | None,
    previewer: Previewer,
    saved: Checkpoints,
) -> None:
    """Make every step of the pipeline a boundary of the job."""
    steps = int(given.get("steps") or 0) or None
    pace = Pace(given)
    context.boundary(Progress("denoise", 0, steps))

    def after_step(running: Any, index: int, latents: torch.Tensor | None) -> None:
        total = getattr(running, "num_timesteps", None) or steps  # Heun takes two for each step
        if latents is not None and pace.due(index + 1, total):
            pixels = previewer.pixels(running, latents, given)
            if pixels is not None:
                context.preview(Image(pixels=pixels))
        context.boundary(Progress("denoise", index + 1, total))

    if "callback_on_step_end" in parameters_of(pipe):

        def callback(running: Any, index: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
            if hold is not None:  # also at steps that are skipped: it draws noise for each
                values["latents"] = hold(running, index, values["latents"])
            if saved.after_step(running, index, values):
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


def _metadata(pipe: Any, given: Mapping[str, Any], seed: int, shape: tuple[int, ...]) -> dict[str, str]:
    """What makes this one image again."""
    shown = {
        name: value
        for name, value in given.items()
        if name in ARGUMENTS and isinstance(value, str | int | float) and value != ""
    }
    if loras := given.get("loras"):
        shown["loras"] = ", ".join(f"{lora['name']}:{lora.get('weight', 1.0):g}" for lora in loras)
    shown |= {
        "seed": seed,
        "width": shape[1],
        "height": shape[0],
        "num_images": 1,
        "scheduler": scheduler_name(pipe.scheduler),
        "pipeline": type(pipe).__name__,
    }
    return {name: str(value) for name, value in shown.items()}
