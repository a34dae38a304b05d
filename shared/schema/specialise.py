"""A model's own input schema: what differs from the schema of its task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import FieldError, InvalidInput


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


def specialise_all(
    schemas: Mapping[str, Mapping[str, Any]], inputs: Mapping[str, Mapping[str, Any] | bool]
) -> dict[str, dict[str, Any]]:
    """The schemas of a model's tasks: ``inputs`` as in ``specialise``, for every task that has them.

    Raises InvalidInput for a property that no task has."""
    every = {name: rule for schema in schemas.values() for name, rule in schema["properties"].items()}
    specialise({"properties": every}, inputs)
    return {
        task: specialise(schema, {name: inputs[name] for name in inputs if name in schema["properties"]})
        for task, schema in schemas.items()
    }
