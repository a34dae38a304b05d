"""Celery's own commands, run as operators run them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "celery", "-A", "worker.celery.app")


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command: this process's, but of Qanvas's variables these alone."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("QANVAS_")}
    return {**inherited, **own}


def run_celery(own: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """``celery -A worker.celery.app …``"""
    return subprocess.run(
        [*COMMAND, *words],
        cwd=ROOT,
        env=environment(own),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
