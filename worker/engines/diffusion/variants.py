"""One set of modules for several tasks: the library's own pipelines for each, over the same weights."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines import auto_pipeline

from shared.errors import ModelUnavailable
from worker.engines.weights import complete

#: task → the library's choice among its pipelines for it, and those pipelines
_AUTO: dict[str, tuple[Any, Any]] = {
    "text-to-image": (
        diffusers.AutoPipelineForText2Image,
        auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
    ),
    "image-to-image": (
        diffusers.AutoPipelineForImage2Image,
        auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    ),
    "inpainting": (
        diffusers.AutoPipelineForInpainting,
        auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING,
    ),
}
#: task → what a pipeline that the library files under no task must take to do it
_TAKES = {"image-to-image": {"image"}, "inpainting": {"image", "mask_image"}}


def pipeline_for(pipe: Any, task: str) -> Any:
    """A pipeline that does the task with the modules of ``pipe``, which may be ``pipe`` itself.

    Raises ModelUnavailable when the library has none."""
    auto, filed = _AUTO.get(task, (None, {}))
    if auto is None or type(pipe) in filed.values():
        return pipe
    try:
        found = auto.from_pipe(pipe)
    except ValueError as error:
        if _TAKES.get(task, set()) <= parameters_of(pipe):
            return pipe
        raise ModelUnavailable(f"{type(pipe).__name__} does no {task}: {error}", retryable=False) from error
    found.set_progress_bar_config(disable=True)
    return found


def with_controlnet(pipe: Any, folder: Path, dtype: torch.dtype) -> Any:
    """The pipeline of the same family that follows a control image, with the ControlNet of that folder.

    Raises ModelUnavailable when there is no such pipeline or no ControlNet in the folder."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        cls: Any = getattr(diffusers, str(config.get("_class_name")), None)
        if cls is None or "ControlNet" not in cls.__name__ or not hasattr(cls, "from_pretrained"):
            raise ValueError(f"{config.get('_class_name')} is no ControlNet")
        with complete("the ControlNet"):
            network = cls.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True
            )
        found = diffusers.AutoPipelineForText2Image.from_pipe(pipe, controlnet=network)
    except (OSError, ValueError, KeyError) as error:
        raise ModelUnavailable(
            f"the ControlNet in {folder} does not fit {type(pipe).__name__}: {error}", retryable=False
        ) from error
    found.set_progress_bar_config(disable=True)
    return found


def let_clip_skip(pipe: Any) -> None:
    """Let a job's own copy of a pipeline leave out layers of its text encoder.

    The library looks for the last norm in ``text_encoder.text_model``, which newer transformers do not have:
    there it is the encoder itself. The shared encoder stays as it is, others look for the same attribute."""
    encoder = pipe.text_encoder
    if not hasattr(encoder, "text_model"):
        own = copy.copy(encoder)
        own.__dict__["text_model"] = encoder  # no submodule: it would contain itself
        pipe.text_encoder = own


def parameters_of(pipe: Any) -> frozenset[str]:
    """What the pipeline's ``__call__`` takes."""
    return frozenset(inspect.signature(type(pipe).__call__).parameters)
