"""The code of a page of docs/extending, as files: each block is named on its first line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_BLOCK = re.compile(r"^```\w+ ([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """The name and the code of each block, in the page's order."""
    return _BLOCK.findall(page.read_text())


def files_of(page: Path) -> dict[str, str]:
    """By path, what the page says that the file holds."""
    return dict(blocks_of(page))


def install(page: Path, folder: Path) -> None:
    """What ``pip install`` makes of the page's package: its modules, and metadata with its entry points."""
    found = files_of(page)
    project = tomllib.loads(found.pop("pyproject.toml"))["project"]
    for name, text in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    about = folder / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    groups = "\n".join(
        f"[{group}]\n" + "\n".join(f"{name} = {place}" for name, place in points.items())
        for group, points in project["entry-points"].items()
    )
    (about / "entry_points.txt").write_text(groups)
