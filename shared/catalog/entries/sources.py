"""Where files come from, as the operator's catalog says it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.catalog.entries.model import Folder, Hub, Source

TEXT = {"type": "string", "minLength": 1}
#: JSON Schema of each key
SOURCE = {
    "hub": {
        "type": "string",
        "pattern": r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$",
        "x-expects": "a repository of the hub, as owner/name",
    },
    "revision": TEXT,
    "folder": TEXT,
}
#: a table with one of them
HAS_SOURCE = {
    "type": "object",
    "additionalProperties": False,
    "oneOf": [{"required": ["hub"]}, {"required": ["folder"]}],
    "dependentRequired": {"revision": ["hub"]},
}
EXPECTS = "a table with hub or folder"


def source(entry: Mapping[str, Any], base: Path) -> Source:
    """What a valid table says; a relative folder begins at ``base``."""
    if "hub" in entry:
        return Hub(entry["hub"], entry.get("revision", "main"), entry.get("file", ""))
    return Folder(str((base / Path(entry["folder"]).expanduser()).resolve()))
