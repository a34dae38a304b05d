"""What a job made, as files."""

from __future__ import annotations

import re
from pathlib import Path

from qanvas.client import Job


def save(job: Job, path: Path) -> list[Path]:
    """Write a job's outputs to ``path``; further ones beside it, numbered ``-2`` and on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, output in enumerate(job.outputs, start=1):
        target = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        paths.append(output.save(target))
    return paths


def slug(text: str) -> str:
    """A short file name that still says what the picture shows."""
    words = re.sub(r"[^\w]+", "-", text.lower()).strip("-")
    return words[:60].rstrip("-") or "picture"
