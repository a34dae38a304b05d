"""What users sent, as a log may show it."""

from __future__ import annotations

#: characters of it that a line shows
_MOST = 300


def one_line(text: str) -> str:
    """The text without what would break the line or steer a terminal, cut where it is long."""
    cut = text if len(text) <= _MOST else f"{text[:_MOST]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
