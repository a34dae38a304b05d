"""What the catalog holds before an operator adds anything: starters, trainers and, for drills, ``fake``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shared.catalog import schemas
from shared.catalog.models import Builtin, Model, Starter
from shared.catalog.tasks import TASKS, TOGETHER, TRAININGS

#: in a starter's folder, what its weights fix: ``inputs`` (as ``schemas.specialise`` takes it),
#: ``description`` and ``license``
ABOUT = "qanvas.json"

_STARTERS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "starter-image": (
        "image",
        "text-to-image",
        {
            # the denoiser halves its 16 x 16 latents twice
            "width": {"minimum": 64, "maximum": 128, "multipleOf": 16, "default": 64},
            "height": {"minimum": 64, "maximum": 128, "multipleOf": 16, "default": 64},
            "steps": {"default": 20},
            "guidance_scale": {"default": 3.0},
            # the text encoder has two layers
            "clip_skip": {"maximum": 1},
        },
    ),
    "starter-gan": ("gan", "unconditional-image-generation", {}),
    "starter-text": ("text", "text-generation", {}),
}


def starters() -> Iterator[Model]:
    """The starters whose weights are here."""
    for model_id, (name, task_name, inputs) in _STARTERS.items():
        task = TASKS[task_name]
        folder = starter_folder(name)
        if folder is None or task.schema not in schemas.names():
            continue
        about = json.loads((folder / ABOUT).read_text("utf-8")) if (folder / ABOUT).is_file() else {}
        names = (task_name, *TOGETHER.get(task_name, ()))
        known = {each: schemas.load(TASKS[each].schema) for each in names}
        own, *others = schemas.specialise_all(known, {**inputs, **about.get("inputs", {})}).items()
        yield Model(
            id=model_id,
            task=task_name,
            engine=task.engine,
            source=Starter(name),
            input_schema=own[1],
            also=dict(others),
            output=task.output,
            license=about.get("license", "Apache-2.0"),
            description=about.get("description", "Trained by this project's own trainer."),
        )


def trainers() -> Iterator[Model]:
    """One model for each way to train."""
    for name, task in TRAININGS.items():
        if task.schema in schemas.names():
            schema = schemas.load(task.schema)
            yield Model(
                id=name,
                task=name,
                engine=task.engine,
                source=Builtin(),
                input_schema=schema,
                output=task.output,
                queue="training",
                license="Apache-2.0",
                description=schema.get("description", schema["title"]),
            )


def fake() -> Model:
    """Draws without a model, and fails on request."""
    schema = schemas.load("fake")
    return Model(
        id="fake",
        task="text-to-image",
        engine="fake",
        source=Builtin(),
        input_schema=schema,
        output="image/png",
        license="Apache-2.0",
        description=schema["description"],
    )


def fakes() -> Iterator[Model]:
    """``fake``, and the same with a fault that lies in the model, not in a job."""
    yield fake()
    yield replace(
        fake(),
        id="fake-hanging",
        options={"load_hangs": True},
        description="For drills: loading it never ends.",
    )


def starter_folder(name: str) -> Path | None:
    """The folder of a starter that has its weights, else None."""
    package = find_spec("starters")
    for parent in (package.submodule_search_locations or ()) if package is not None else ():
        folder = Path(parent) / name
        if next(folder.rglob("*.safetensors"), None) is not None:
            return folder
    return None
