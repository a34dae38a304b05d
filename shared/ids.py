"""Ids that sort by time: a prefix that says the kind, then a ULID that grows within a process."""

from __future__ import annotations

import re
from typing import Literal

from ulid import ULID

Kind = Literal["job", "out", "file", "key", "evt", "wrk"]

_ULID = "[0-9A-HJKMNP-TV-Z]{26}"
_ID = re.compile(f"[a-z]{{3,4}}_{_ULID}")


def new_id(kind: Kind) -> str:
    """A fresh id such as ``job_01KXYZ…``."""
    return f"{kind}_{ULID()}"


def first_id(kind: Kind, seconds: float) -> str:
    """The smallest id that can be made at that time, in seconds since 1970: older ones sort before it."""
    milliseconds = max(0, int(seconds * 1000))
    return f"{kind}_{ULID(milliseconds.to_bytes(6) + bytes(10))}"


def pattern(kind: Kind) -> str:
    """The form of such ids, for a JSON Schema; without the anchors that hold it to the whole text."""
    return f"{kind}_{_ULID}"


def is_id(kind: Kind, text: str) -> bool:
    """Whether the text has the form of an id of this kind (it need not exist)."""
    return text.startswith(f"{kind}_") and _ID.fullmatch(text) is not None
