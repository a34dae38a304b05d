"""What every storage offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a write left behind: ``bytes`` is the size, ``sha256`` the hex digest of the content."""

    key: str
    bytes: int
    sha256: str


#: what ``check_writable`` stores, and how many bytes of it
_PROBE, _PROBE_BYTES = "probe/room", 1 << 18


def check_writable(storage: Storage) -> None:
    """Store a small file and remove it. Raises Unavailable where the storage is away, full or read-only."""
    storage.write(_PROBE, bytes(_PROBE_BYTES))
    storage.delete(_PROBE)


class Storage(Protocol):
    """Bytes under keys such as ``outputs/job_…/1/0.png``.

    A key is relative, with ``/`` between its parts; one that could leave the storage raises ValueError
    (``shared.storage.keys``). A key that holds nothing raises ``NotFound``; a store that does not answer
    raises ``Unavailable``.
    """

    def write(self, key: str, source: BinaryIO | bytes) -> StoredObject:
        """Store all of ``source`` under ``key``, replacing what was there. Readers see the old content or
        the new, never a part; when this returns, the content survives a crash."""

    def open(self, key: str) -> BinaryIO:
        """A seekable reader of the content; the caller closes it."""

    def size(self, key: str) -> int:
        """In bytes."""

    def delete(self, key: str) -> None:
        """Remove the key; one that holds nothing is fine."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove every key below the folder ``prefix``."""

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below the folder ``prefix``, sorted."""

    def older(self, prefix: str, seconds: float) -> Iterator[str]:
        """The keys below the folder ``prefix`` that were written at least that long ago, in any order."""

    def local_path(self, key: str) -> Path | None:
        """Where the content lies on this machine, for reading only; None where it does not."""

    def signed_url(self, key: str, seconds: int) -> str | None:
        """A URL that whoever has it may read for so many seconds; None where there are none."""

    def fetch_folder(self, prefix: str, into: Path) -> Path:
        """A local folder with everything below ``prefix``, for reading only: ``into``, or the storage's own
        folder where it is local. Raises NotFound when nothing is stored there."""
