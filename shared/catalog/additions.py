"""What a model has beside its own weights, LoRA adapters and a ControlNet: the inputs they bring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shared.catalog import schemas


def with_loras(schema: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A task's input schema with the choice among these adapters."""
    rule = schemas.load("additions")["properties"]["loras"]
    item = rule["items"]
    name = {**item["properties"]["name"], "enum": sorted(names)}
    return _with(
        schema, loras={**rule, "items": {**item, "properties": {**item["properties"], "name": name}}}
    )


def with_controlnet(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A task's input schema for a model that draws along a control image."""
    known = schemas.load("additions")["properties"]
    added = {name: known[name] for name in ("control_image", "controlnet_conditioning_scale")}
    return _with(schema, **added) | {"required": [*schema.get("required", ()), "control_image"]}


def _with(schema: Mapping[str, Any], **added: Mapping[str, Any]) -> dict[str, Any]:
    return {**schema, "properties": {**schema["properties"], **added}}
