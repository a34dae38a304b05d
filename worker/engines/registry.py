"""Engines by the name that catalog entries give; each is imported when it is first needed."""

from __future__ import annotations

import threading
from functools import cache
from importlib import import_module
from typing import cast

from shared.errors import MissingExtra, ModelUnavailable
from worker.engines.contract.engine import Engine

#: engine name → module and class
ENGINES = {
    "diffusion": ("worker.engines.diffusion.engine", "DiffusionEngine"),
    "fake": ("worker.engines.fake.engine", "FakeEngine"),
    "gan": ("worker.engines.gan.engine", "GanEngine"),
    "text": ("worker.engines.text.engine", "TextEngine"),
    "train-diffusion": ("worker.engines.diffusion.training.trainer", "DiffusionTrainer"),
    "train-gan": ("worker.engines.gan.trainer", "GanTrainer"),
    "train-text": ("worker.engines.text.trainer", "TextTrainer"),
}
#: one thread at a time imports an engine: diffusers and transformers import their parts lazily, and each
#: other's, so that of two threads one may find the other's half imported
_importing = threading.Lock()


def engine_named(name: str) -> Engine:
    """The one engine of that name in this process. Any thread.

    Raises ModelUnavailable for a name that no engine has, MissingExtra when its libraries are not there."""
    with _importing:
        return _engine(name)


@cache
def _engine(name: str) -> Engine:
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
