"""Small disks of memory, to be filled, made read-only and emptied; only root can mount them, on Linux."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: why there are none here; None where there are
REASON = (
    None if sys.platform == "linux" and os.geteuid() == 0 else "only root can mount a file system, on Linux"
)


class Disk:
    """A file system of its own at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Leave no room: whoever writes meets ENOSPC."""
        with self._filler.open("wb", buffering=0) as file:
            block = bytes(1 << 20)
            while block:
                try:
                    file.write(block)
                except OSError:
                    block = block[: len(block) // 2]

    def empty(self) -> None:
        """Let there be room again."""
        self._filler.unlink(missing_ok=True)

    def read_only(self, on: bool) -> None:
        """Whoever writes meets EROFS; not possible while a file on it is open for writing."""
        _run("mount", "-o", f"remount,{'ro' if on else 'rw'}", self.path)


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Disk]:
    """A disk of so many megabytes, mounted at ``path``, which must not be in use any more at the end."""
    path.mkdir(parents=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", path)
    try:
        yield Disk(path)
    finally:
        _run("umount", "-l", path)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


def mountable(folder: Path) -> str | None:
    """Why no disk can be mounted here; None where it can. On CI as root, one must be."""
    if REASON is None:
        try:
            with small_disk(folder / "probe", 1):
                return None
        except subprocess.CalledProcessError as error:
            if os.environ.get("CI") == "true":
                raise
            return f"nothing can be mounted here: {error.stderr.decode(errors='replace').strip()}"
    return REASON
