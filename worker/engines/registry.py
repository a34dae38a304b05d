"""Engines by the name that catalog entries give; each is imported when it is first needed."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import cast

from shared.errors import MissingExtra, ModelUnavailable
from worker.engines.base import Engine

#: engine name → module and class
ENGINES = {
    "diffusion": ("worker.engines.diffusion", "DiffusionEngine"),
    "fake": ("worker.engines.fake", "FakeEngine"),
    "gan": ("worker.engines.gan", "GanEngine"),
    "text": ("worker.engines.text", "TextEngine"),
    "train-diffusion": ("worker.engines.training.diffusion", "DiffusionTrainer"),
    "train-gan": ("worker.engines.training.gan", "GanTrainer"),
    "train-text": ("worker.engines.training.text", "TextTrainer"),
}


@cache
def engine_named(name: str) -> Engine:
    """The one engine of that name in this process.

    Raises ModelUnavailable for a name that no engine has, MissingExtra when its libraries are not there."""
    if name not in ENGINES:
        raise ModelUnavailable(
            f"no engine {name!r} in this worker; there are {', '.join(ENGINES)}", retryable=False
        )
    module, cls = ENGINES[name]
    try:
        return cast(Engine, getattr(import_module(module), cls)())
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("worker."):
            raise
        raise MissingExtra(error.name, "worker") from error
