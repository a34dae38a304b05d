"""Files inside objects and arrays: found wherever they are handled, and refused where they would not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.catalog import tasks
from shared.catalog.operator_file import read
from shared.errors import ConfigurationError
from shared.schema.marks import changed, misplaced

FILE = {"type": "string", "x-file": "image"}
SCHEMA = {
    "type": "object",
    "properties": {
        "image": FILE,
        "frames": {"type": "array", "items": {"type": "object", "properties": {"at": {}, "image": FILE}}},
        "style": {"type": "object", "properties": {"pictures": {"type": "array", "items": FILE}}},
        "prompt": {"type": "string"},
    },
}


def test_what_is_marked_is_changed_wherever_it_stands_and_nothing_else() -> None:
    given = {
        "image": "a",
        "frames": [{"at": "b", "image": "c"}, {"at": "d"}],
        "style": {"pictures": ["e", {"job": "f"}], "unknown": "g"},
        "prompt": "h",
    }
    seen: dict[str, Any] = {}
    found = changed(
        SCHEMA, given, "x-file", lambda kind, value, pointer: seen.setdefault(pointer, value) and kind
    )
    assert seen == {
        "/image": "a",
        "/frames/0/image": "c",
        "/style/pictures/0": "e",
        "/style/pictures/1": {"job": "f"},
    }
    assert found == {
        "image": "image",
        "frames": [{"at": "b", "image": "image"}, {"at": "d"}],
        "style": {"pictures": ["image", "image"], "unknown": "g"},
        "prompt": "h",
    }


@pytest.mark.parametrize("name", sorted(tasks.names()))
def test_our_own_schemas_mark_only_what_is_found(name: str) -> None:
    assert list(misplaced(tasks.load(name))) == []


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"anyOf": [FILE, {"type": "null"}]}, "/a/anyOf"),
        ({"type": "object", "additionalProperties": FILE}, "/a/additionalProperties"),
        ({"type": "array", "prefixItems": [FILE]}, "/a/prefixItems"),
        (
            {"type": "array", "items": {"type": "object", "patternProperties": {"x": FILE}}},
            "/a/items/patternProperties",
        ),
        ({"type": "array", "x-file": "image"}, "/a"),
    ],
)
def test_marks_that_nobody_would_heed_are_found(changes: dict[str, Any], place: str) -> None:
    assert list(misplaced({"properties": {"a": changes}})) == [place]


def test_a_catalog_with_such_a_mark_is_refused_and_says_where_it_belongs(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(
        '[models.m]\ntask = "image-to-image"\nhub = "a/b"\n[models.m.inputs.image]\ntype = "array"\n'
    )
    with pytest.raises(ConfigurationError, match=r"/models/m/inputs/image: .*items of arrays"):
        read(catalog)
