"""The input of each task as JSON Schema: one file for each, named after the task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any


@cache
def names() -> frozenset[str]:
    """The tasks that have a file."""
    files = resources.files(__name__).iterdir()
    return frozenset(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


@cache
def load(task: str) -> Mapping[str, Any]:
    """The schema of a task, for reading only: everyone gets the same one.

    A file that ``extends`` another says only what differs from that one's."""
    schema = read(resources.files(__name__) / f"{task}.json")
    if (base := schema.pop("extends", None)) is None:
        return schema
    whole = load(base)
    own, inherited = schema["properties"], whole["properties"]
    properties = {name: {**inherited.get(name, {}), **own.get(name, {})} for name in (*own, *inherited)}
    return {**whole, **schema, "properties": properties}


def read(file: Traversable) -> dict[str, Any]:
    """The JSON object of a file that is part of a package."""
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found
