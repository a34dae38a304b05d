"""Ids that sort by time: a prefix that says the kind, then a ULID that grows within a process."""

from __future__ import annotations

import re
from typing import Literal

from ulid import ULID

Kind = Literal["job", "out", "file", "key", "evt", "wrk"]

_ID = re.compile(r"[a-z]{3,4}_[0-9A-HJKMNP-TV-Z]{26}")


def new_id(kind: Kind) -> str:
    """A fresh id such as ``job_01KXYZ…``."""
    return f"{kind}_{ULID()}"


def is_id(kind: Kind, text: str) -> bool:
    """Whether the text has the form of an id of this kind (it need not exist)."""
    return text.startswith(f"{kind}_") and _ID.fullmatch(text) is not None
