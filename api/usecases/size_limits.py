"""How large a job's row may be: what clients put there is stored, sent in lists and copied into webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidInput
from shared.json_text import json_bytes

#: bytes of JSON that a job's ``input`` may take once its ``data:`` URIs are stored as files, and its metadata
MOST_INPUT, MOST_METADATA = 1 << 20, 16 << 10


def check_begun(given: object) -> None:
    """Refuse an input that is too large whatever becomes of its ``data:`` URIs, before anything reads it.

    What it takes is not measured but estimated from below, in steps. Raises InvalidInput."""
    if isinstance(given, dict) and (least := _least(given)) > MOST_INPUT:
        raise _too_large(given, f"at least {least}")


def is_light(body: object) -> bool:
    """Whether a submission is small with its ``data:`` URIs: to read all of it at once takes milliseconds."""
    return _least(body, files=True) <= MOST_INPUT


def check_settled(settled: Mapping[str, Any]) -> int:
    """The bytes that an input takes whose files are stored. Raises InvalidInput for too many."""
    if (least := _least(settled, files=True)) > MOST_INPUT:
        raise _too_large(settled, f"at least {least}")
    if (size := json_bytes(settled)) > MOST_INPUT:
        raise _too_large(settled, str(size))
    return size


def check_metadata(given: Mapping[str, Any]) -> int:
    """The bytes that metadata takes. Raises InvalidInput for too many."""
    if not given:
        return 2
    if (least := _least(given, files=True)) > MOST_METADATA:
        raise _too_large_metadata(f"at least {least}")
    if (size := json_bytes(given)) > MOST_METADATA:
        raise _too_large_metadata(str(size))
    return size


def _least(value: object, *, files: bool = False) -> int:
    """Bytes that a value takes as JSON, at the least; ``files``: those of its ``data:`` URIs included."""
    size, left = 0, [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            size += len(part) if files or part[:5].lower() != "data:" else 0
        elif isinstance(part, dict):
            size += sum(map(len, part)) + 4 * len(part)
            left.extend(part.values())
        elif isinstance(part, list):
            size += len(part)
            left.extend(part)
    return size


def _too_large(given: Mapping[str, Any], size: str) -> InvalidInput:
    largest = max(given, key=lambda name: _least(given[name], files=True))
    return InvalidInput.at(
        f"/input/{largest}",
        f"makes the input too large: it takes {size} bytes as JSON, and at most {MOST_INPUT} are allowed; "
        "send large data as a file with POST /v1/files and give its id",
    )


def _too_large_metadata(size: str) -> InvalidInput:
    return InvalidInput.at(
        "/metadata", f"must take at most {MOST_METADATA} bytes as JSON, all of it together; it takes {size}"
    )
