"""Keys that can name nothing outside the storage. Pure."""

from __future__ import annotations

MAX_KEY = 512  #: characters
MAX_PART = 200  #: bytes of UTF-8: file systems end at 255

#: the first part under which a storage keeps its own unfinished files
RESERVED = ".incoming"


def check_key(key: str) -> str:
    """The key itself. Raises ValueError for one that is empty, absolute, too long, or walks upwards."""
    if len(key) > MAX_KEY:
        raise ValueError(f"storage key of {len(key)} characters; at most {MAX_KEY} are allowed")
    parts = key.split("/")
    for part in parts:
        if part in ("", ".", "..") or len(part.encode("utf-8", "replace")) > MAX_PART:
            raise ValueError(f"storage key {key!r} has the part {part!r}, which is not a plain name")
        if "\\" in part or not part.isprintable():
            raise ValueError(f"storage key {key!r} has characters that are not allowed in a name")
    if parts[0] == RESERVED:
        raise ValueError(f"storage key {key!r}: {RESERVED} is the storage's own")
    return key


def check_prefix(prefix: str) -> str:
    """The folder without its last ``/``. Raises ValueError as ``check_key``."""
    return check_key(prefix.removesuffix("/"))
