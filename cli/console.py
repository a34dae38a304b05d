"""Standard output for tables."""

from __future__ import annotations

import sys

from rich.console import Console


def console() -> Console:
    """As wide as the terminal; where a program reads the output, nothing is cut off."""
    return Console() if sys.stdout.isatty() else Console(width=10_000)
