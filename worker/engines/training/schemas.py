"""The input schema that a trained model gets in the catalog."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def input_schema(name: str) -> dict[str, Any]:
    """The JSON Schema ``shared/catalog/schemas/<name>.json``."""
    text = (files("shared.catalog") / "schemas" / f"{name}.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
