"""A trained model as the JSON that its row in the database keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.catalog.entries.model import Model, Stored


def to_entry(model: Model) -> dict[str, Any]:
    """Raises ValueError for a model whose files are not in the storage: such a one has no row."""
    if not isinstance(model.source, Stored):
        raise ValueError(f"model {model.id} is not in the storage")
    return {
        "task": model.task,
        "engine": model.engine,
        "prefix": model.source.prefix,
        "input_schema": model.input_schema,
        "also": dict(model.also),
        "output": model.output,
        "queue": model.queue,
        "license": model.license,
        "description": model.description,
        "options": dict(model.options),
    }


def from_entry(model_id: str, entry: Mapping[str, Any], owner: str) -> Model:
    """What ``to_entry`` was given, as the model of the tenant that trained it."""
    return Model(
        id=model_id,
        owner=owner,
        task=entry["task"],
        engine=entry["engine"],
        source=Stored(entry["prefix"]),
        input_schema=entry["input_schema"],
        also=entry.get("also", {}),  # rows of earlier versions have none
        output=entry["output"],
        queue=entry["queue"],
        license=entry["license"],
        description=entry["description"],
        options=entry["options"],
    )
