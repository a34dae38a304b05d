"""The storage in a folder: for one machine, or a file system that all of them share."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from shared.errors import NotFound, Unavailable
from shared.storage.base import StoredObject
from shared.storage.keys import RESERVED, check_key, check_prefix

CHUNK = 1 << 20  #: bytes read at once
ABANDONED = 86_400.0  #: seconds after which an unfinished file has no writer any more
#: seconds for which an unfinished file is left alone: its writer may not have its lock yet, or no more
_FRESH = 60.0


class FileStorage:
    """One file for each key below ``root``. Implements ``Storage``."""

    def __init__(self, root: Path) -> None:
        """Makes the folder, and removes what writers that died left behind.

        Raises Unavailable when the folder cannot be made."""
        self.root = root.absolute()
        self._incoming = self.root / RESERVED
        with _translated(self.root):
            self._incoming.mkdir(parents=True, exist_ok=True)
        self.sweep()

    def write(self, key: str, source: BinaryIO | bytes) -> StoredObject:
        target = self.root / check_key(key)
        unfinished = self._incoming / uuid.uuid4().hex
        with _translated(target):
            try:
                digest, size = _copy(source, unfinished)
                self._move(unfinished, target)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
        return StoredObject(key, size, digest)

    def open(self, key: str) -> BinaryIO:
        with _translated(self.root, reading=True):
            return self._existing(key).open("rb")

    def size(self, key: str) -> int:
        with _translated(self.root, reading=True):
            return self._existing(key).stat().st_size

    def delete(self, key: str) -> None:
        path = self.root / check_key(key)
        with _translated(path):
            try:
                path.unlink(missing_ok=True)
            except (NotADirectoryError, IsADirectoryError):
                return
            self._prune(path.parent)

    def delete_prefix(self, prefix: str) -> None:
        folder = self.root / check_prefix(prefix)
        aside = self._incoming / uuid.uuid4().hex
        with _translated(folder):
            try:
                # Moved in one step: a reader finds all of the folder or none of it.
                folder.rename(aside)
            except (FileNotFoundError, NotADirectoryError):
                return
            shutil.rmtree(aside)
            self._prune(folder.parent)

    def list(self, prefix: str) -> Iterator[str]:
        folder = self.root / check_prefix(prefix)
        return iter(
            sorted(path.relative_to(self.root).as_posix() for path in folder.rglob("*") if path.is_file())
        )

    def older(self, prefix: str, seconds: float) -> Iterator[str]:
        folder, before = self.root / check_prefix(prefix), time.time() - seconds
        for path in folder.rglob("*"):
            try:
                old = path.is_file() and path.stat().st_mtime <= before
            except FileNotFoundError:
                continue  # deleted meanwhile
            if old:
                yield path.relative_to(self.root).as_posix()

    def sweep(self) -> None:
        """Removes unfinished files whose writers are dead, and what is older than a day.

        A writer holds a lock on its file, which the system lets go of when the process dies."""
        now = time.time()
        with _translated(self._incoming):
            for path in self._incoming.iterdir():
                try:
                    age = now - path.stat().st_mtime
                    if age > ABANDONED or (age > _FRESH and path.is_file() and _is_left(path)):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                except FileNotFoundError:
                    continue  # its writer finished, or another process sweeps too

    def local_path(self, key: str) -> Path:
        with _translated(self.root, reading=True):
            return self._existing(key)

    def signed_url(self, key: str, seconds: int) -> None:
        return None

    def fetch_folder(self, prefix: str, into: Path) -> Path:
        folder = self.root / check_prefix(prefix)
        with _translated(self.root, reading=True):
            if not folder.is_dir():
                self._check_there()
                raise NotFound("stored folder", prefix)
        return folder

    def copy_folder(self, prefix: str, into: Path) -> None:
        folder = self.fetch_folder(prefix, into)
        try:
            for path in folder.rglob("*"):
                target = into / path.relative_to(folder)
                if path.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link_or_copy(path, target)
        except FileNotFoundError:  # somebody deletes it at this moment, or the storage went away
            self._check_there()
            raise NotFound("stored folder", prefix) from None

    def _existing(self, key: str) -> Path:
        path = self.root / check_key(key)
        if not path.is_file():
            self._check_there()
            raise NotFound("stored file", key)
        return path

    def _check_there(self) -> None:
        """Raises Unavailable where the whole storage is gone: a file system that is not mounted now."""
        if not self._incoming.is_dir():
            raise Unavailable(
                "the storage is away", f"{self.root} lacks its folder {RESERVED}; mount the storage again"
            )

    def _move(self, unfinished: Path, target: Path) -> None:
        """Rename into place; then the rename itself is made to survive a crash."""
        while True:
            try:
                self._make_folder(target.parent)
                unfinished.rename(target)
            except FileNotFoundError:
                if not unfinished.exists():
                    raise
                continue  # a delete took the folder away between the two lines: make it again
            # Journals keep order: with this entry, the folders that were made for it are on the disk too.
            _sync_folder(target.parent)
            return

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, but never the root: where a file system was unmounted, files
        would come to lie below its mount point, out of sight once it is mounted again."""
        if folder != self.root and not folder.is_dir():
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)

    def _prune(self, folder: Path) -> None:
        """Remove folders that a delete left empty, upwards, ending below the root."""
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError:
                return  # not empty, or another delete was faster
            folder = folder.parent


def _copy(source: BinaryIO | bytes, path: Path) -> tuple[str, int]:
    """Write and fsync a new file; the hex digest and the size of what was written."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb", buffering=0) as file:
        with suppress(OSError):  # a file system without locks: what is left there is swept after a day
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if isinstance(source, bytes):
            chunks: Iterator[bytes] = iter((source,))
        else:
            chunks = iter(lambda: source.read(CHUNK), b"")
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def _is_left(path: Path) -> bool:
    """Whether nobody holds the lock of an unfinished file any more."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return  # deleted meanwhile: nothing to keep
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link_or_copy(source: Path, target: Path) -> None:
    """Stored files are replaced and never written again, so that a second name for one keeps its content."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


@contextmanager
def _translated(path: Path, *, reading: bool = False) -> Iterator[None]:
    """The file system's errors in our words."""
    try:
        yield
    except OSError as error:
        detail = (
            f"{path}: {error.strerror or error}; "
            "check its free space and permissions, or set QANVAS_STORAGE_URL to another place"
        )
        if reading:
            raise Unavailable("the storage cannot be read", detail) from error
        raise Unavailable("the storage cannot be written", detail) from error
