"""What a job made, as files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from cli.client import Client


def save(client: Client, job: dict[str, Any], path: Path) -> list[Path]:
    """Write a job's outputs to ``path``; further ones beside it, numbered ``-2`` and on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, output in enumerate(job["outputs"], start=1):
        target = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        client.download(output["url"], target)
        paths.append(target)
    return paths


def console() -> Console:
    """Standard output for tables; nothing is cut off where a program reads it."""
    return Console() if sys.stdout.isatty() else Console(width=10_000)


def slug(text: str) -> str:
    """A short file name that still says what the picture shows."""
    words = re.sub(r"[^\w]+", "-", text.lower()).strip("-")
    return words[:60].rstrip("-") or "picture"
