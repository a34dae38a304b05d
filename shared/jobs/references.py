"""An input file that another job makes: ``{"job": "job_…", "output": 0}``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.ids import pattern

_REFERENCE: Mapping[str, Any] = {
    "type": "object",
    "description": "An output of another job, which must have succeeded before this one is queued.",
    "properties": {
        "job": {
            "type": "string",
            "pattern": f"^{pattern('job')}$",
            "x-expects": "the id of a job",
        },
        "output": {"type": "integer", "minimum": 0, "maximum": 100_000, "description": "Counted from 0."},
    },
    "required": ["job", "output"],
    "additionalProperties": False,
}


def with_references(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with every file (``x-file``) given as text or as another job's output."""
    if "x-file" in schema:
        about = {name: schema[name] for name in ("x-file", "title", "description") if name in schema}
        given = {name: rule for name, rule in schema.items() if name not in about}
        return {**about, "anyOf": [given, _REFERENCE]}
    found = dict(schema)
    if "properties" in schema:
        found["properties"] = {name: with_references(rule) for name, rule in schema["properties"].items()}
    if isinstance(schema.get("items"), Mapping):
        found["items"] = with_references(schema["items"])
    return found


def is_reference(value: object) -> bool:
    """Whether a value that has passed the schema names another job's output."""
    return isinstance(value, dict) and "job" in value
