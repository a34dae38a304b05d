"""Engines by the name that catalog entries give; each is imported when it is first needed."""

from __future__ import annotations

import threading
from functools import cache
from importlib import import_module
from typing import cast

from shared.catalog.families import engines
from shared.errors import MissingExtra, ModelUnavailable
from worker.engines.contract.engine import Engine

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
    known = engines()
    if name not in known:
        raise ModelUnavailable(
            f"no engine {name!r} in this worker; there are {', '.join(known)}", retryable=False
        )
    module, _, cls = known[name].partition(":")
    try:
        return cast(Engine, getattr(import_module(module), cls)())
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("worker."):
            raise
        raise MissingExtra(error.name, "worker") from error
