"""Where an input holds files and pictures: its schema marks them, in objects and arrays as well. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

#: what a string may be besides text
MARKS = ("x-file", "x-picture")

#: what says something of a value, and nothing of what it is made of
_PLAIN = frozenset({"default", "examples", "const", "enum"})


def changed(
    schema: Mapping[str, Any],
    value: Any,
    mark: str,
    change: Callable[[Any, Any, str], Any],
    pointer: str = "",
) -> Any:
    """The value with ``change(schema[mark], part, pointer)`` in place of every part that is so marked.

    The value has passed the schema; objects and arrays on the way are copied, all else is the same."""
    if mark in schema:
        return change(schema[mark], value, pointer)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return {
            name: changed(rule, part, mark, change, f"{pointer}/{name}")
            if (rule := known.get(name)) is not None and (mark in rule or isinstance(part, dict | list))
            else part
            for name, part in value.items()
        }
    if isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
        return [changed(items, part, mark, change, f"{pointer}/{index}") for index, part in enumerate(value)]
    return value


def misplaced(schema: Mapping[str, Any], pointer: str = "") -> Iterator[str]:
    """Pointers to marks that ``changed`` would not find, or that stand on something other than a string."""
    if any(mark in schema for mark in MARKS) and schema.get("type") != "string":
        yield pointer
    for keyword, part in schema.items():
        if keyword == "properties":
            for name, rule in part.items():
                yield from misplaced(rule, f"{pointer}/{name}")
        elif keyword == "items" and isinstance(part, Mapping):
            yield from misplaced(part, f"{pointer}/items")
        elif keyword not in _PLAIN and _has_mark(part):
            yield f"{pointer}/{keyword}"


def _has_mark(part: Any) -> bool:
    if isinstance(part, Mapping):
        return any(mark in part for mark in MARKS) or any(map(_has_mark, part.values()))
    return isinstance(part, list) and any(map(_has_mark, part))
