"""JSON as it is stored and sent: without blanks, every character as itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import orjson


def to_json(value: Any) -> str:
    """The value as JSON. Raises TypeError, and ValueError, for what JSON has no way to write."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # orjson.JSONEncodeError: integers of more than 64 bits, say, which clients may send
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_bytes(value: Any) -> int:
    """How many bytes ``to_json`` makes of a value, in UTF-8. Raises as it does."""
    try:
        return len(orjson.dumps(value))
    except TypeError:
        return len(to_json(value).encode())


def to_json_list(values: Iterable[Any]) -> str:
    """The values as a JSON array, one at a time: threads that wait for the interpreter get it in between."""
    return f"[{','.join(map(to_json, values))}]"
