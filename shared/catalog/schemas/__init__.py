"""The inputs of each kind of model as JSON Schema, one file for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from shared.errors import FieldError, InvalidInput


@cache
def names() -> frozenset[str]:
    """The schemas there are."""
    files = resources.files(__name__).iterdir()
    return frozenset(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


@cache
def load(name: str) -> Mapping[str, Any]:
    """The schema ``name``, for reading only: everyone gets the same one."""
    schema: dict[str, Any] = json.loads(resources.files(__name__).joinpath(f"{name}.json").read_text("utf-8"))
    return schema


def specialise(schema: Mapping[str, Any], inputs: Mapping[str, Mapping[str, Any] | bool]) -> dict[str, Any]:
    """A model's own schema: ``inputs`` maps a property to the keywords that differ for this model, as
    ``{"steps": {"default": 4, "maximum": 8}}``; False takes a property away that the model does not know.

    Raises InvalidInput for a property that the schema does not have."""
    properties = dict(schema["properties"])
    if unknown := [name for name in inputs if name not in properties]:
        known = ", ".join(properties)
        raise InvalidInput(
            [FieldError(f"/{name}", f"is no input of this task; known are {known}") for name in unknown]
        )
    for name, changes in inputs.items():
        if isinstance(changes, Mapping):
            properties[name] = {**properties[name], **changes}
        elif changes is False:
            del properties[name]
    required = [name for name in schema.get("required", ()) if name in properties]
    return {**schema, "properties": properties, "required": required}
