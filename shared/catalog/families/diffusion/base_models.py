"""Which models ``train-diffusion`` can go on from: those that it made. Told from JSON, without torch."""

from __future__ import annotations

import json
from pathlib import Path

from shared.catalog.entries.model import Folder, Hub, Model

#: the class of each part of a model that the trainer writes
PARTS = {
    "vae": "AutoencoderTiny",
    "tokenizer": "CLIPTokenizer",
    "text_encoder": "CLIPTextModel",
    "unet": "UNet2DConditionModel",
    "scheduler": "DDIMScheduler",
}


def unfit(model: Model) -> str:
    """Why a training cannot go on from this model; empty where nothing speaks against it.

    Files that are not on this machine are not fetched to find out: the worker that has them looks again."""
    made_here = model.engine == "diffusion" and "text-to-image" in model.schemas
    if not made_here or isinstance(model.source, Hub):
        return fault(model.id, "was not made by train-diffusion")
    if isinstance(model.source, Folder) and (folder := Path(model.source.path)).is_dir():
        return unlike(model.id, folder)
    return ""


def unlike(model_id: str, folder: Path) -> str:
    """What tells that a folder is not of the trainer's making: the class of a part; empty where none does."""
    try:
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
        found = {part: index[part][1] for part in PARTS}
    except (OSError, ValueError, LookupError, TypeError):
        return fault(model_id, "does not have the parts of a model that train-diffusion made")
    for part, made in PARTS.items():
        if found[part] != made:
            return fault(model_id, f"has another {part} than train-diffusion makes ({made})")
    return ""


def fault(model_id: str, reason: str) -> str:
    """What is wrong with a base, and the cure."""
    return f"{model_id} {reason}; give a model that train-diffusion made, such as starter-image"
