"""The version of this installation: pyproject.toml says it, and nothing else."""

from __future__ import annotations

from importlib.metadata import version

VERSION = version("qanvas")
