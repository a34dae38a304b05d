"""JSON as it is stored and sent: without blanks, every character as itself."""

from __future__ import annotations

import json
from typing import Any

import orjson


def to_json(value: Any) -> str:
    """The value as JSON. Raises TypeError, and ValueError, for what JSON has no way to write."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # orjson.JSONEncodeError: integers of more than 64 bits, say, which clients may send
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
