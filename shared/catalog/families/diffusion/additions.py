"""What a model has beside its own weights, LoRA adapters and a ControlNet: the inputs they bring."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from shared.catalog.entries.sources import EXPECTS, HAS_SOURCE, SOURCE
from shared.catalog.tasks import read
from shared.errors import InvalidInput

_LORA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # the library takes no dot
_LORA = {
    **HAS_SOURCE,
    "dependentRequired": {"revision": ["hub"], "file": ["hub"]},
    "x-expects": EXPECTS,
    "properties": {
        **SOURCE,
        "file": {
            "type": "string",
            "pattern": r"^\w[\w. -]*(/\w[\w. -]*)*\.safetensors$",
            "x-expects": "a .safetensors file of the repository",
        },
    },
}
#: what an entry of the operator's catalog may say of a model
KEYS: Mapping[str, Mapping[str, Any]] = {
    "controlnet": {**HAS_SOURCE, "properties": SOURCE, "x-expects": EXPECTS},
    "loras": {"type": "object", "additionalProperties": _LORA},
}


def extend(
    entry: Mapping[str, Any], schemas: Mapping[str, Mapping[str, Any]], at: str
) -> Mapping[str, Mapping[str, Any]]:
    """The schemas of an entry's tasks with the inputs that its adapters and its ControlNet bring.

    Raises InvalidInput below the pointer ``at``."""
    loras = entry.get("loras", {})
    if bad := [name for name in loras if not _LORA_NAME.fullmatch(name)]:
        raise InvalidInput.at(f"{at}/loras/{bad[0]}", "must be a name of 1 to 64 letters, digits, _ and -")
    if loras:
        schemas = {name: _with_loras(schema, loras) for name, schema in schemas.items()}
    if "controlnet" in entry:
        schemas = {name: _with_controlnet(schema) for name, schema in schemas.items()}
    return schemas


def _with_loras(schema: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    rule = _inputs()["loras"]
    item = rule["items"]
    name = {**item["properties"]["name"], "enum": sorted(names)}
    return _with(
        schema, loras={**rule, "items": {**item, "properties": {**item["properties"], "name": name}}}
    )


def _with_controlnet(schema: Mapping[str, Any]) -> dict[str, Any]:
    added = {name: _inputs()[name] for name in ("control_image", "controlnet_conditioning_scale")}
    return _with(schema, **added) | {"required": [*schema.get("required", ()), "control_image"]}


@cache
def _inputs() -> Mapping[str, Any]:
    found: Mapping[str, Any] = read(resources.files(__package__) / "additions.json")["properties"]
    return found


def _with(schema: Mapping[str, Any], **added: Mapping[str, Any]) -> dict[str, Any]:
    return {**schema, "properties": {**schema["properties"], **added}}
