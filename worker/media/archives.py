"""Zip archives that somebody sent: entries are read within limits, in a decoder only."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import BinaryIO

from worker.media.wire import Undecodable

MAX_ENTRIES = 200_000
#: bytes of an archive's directory: 200,000 entries with names of 200 characters
MAX_DIRECTORY = 64 * 2**20
#: characters of an entry's name
MAX_NAME = 1024
#: bytes that all entries that are read unpack to
MAX_UNPACKED = 16 * 2**30

_PACK = "pack the archive anew with: zip -r data.zip ."
_PIECE = 1 << 16
#: bytes of the header before each entry, without its names
_HEADER = 30


class Archive:
    """An archive's entries by their names; ``content`` and ``lines`` never unpack more than they are told."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises Undecodable for what is no zip, and for one that lies about its entries."""
        try:
            self._zip = zipfile.ZipFile(_Measured(file))
            found = self._zip.infolist()
            start = self._zip.start_dir
        except (Undecodable, MemoryError):
            raise
        except Exception as error:  # whatever broken bytes make the library raise
            raise Undecodable(f"is not a zip that can be read ({_said(error)}); {_PACK}") from error
        self._left = MAX_UNPACKED
        self.entries = _checked(found, start)

    def content(self, name: str, most: int) -> bytes:
        """What the entry unpacks to. The header's size may lie: never more than ``most`` bytes."""
        return b"".join(self._pieces(name, most))

    def lines(self, name: str, most: int, longest: int) -> Iterator[bytes]:
        """The entry's lines without their ends, at most ``most`` bytes together and ``longest`` each."""
        rest = b""
        for piece in self._pieces(name, most):
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
            if len(rest) > longest:
                raise Undecodable(f"{shown(name)} has a line of more than {longest} bytes; make it shorter")
        yield rest

    def _pieces(self, name: str, most: int) -> Iterator[bytes]:
        try:
            with self._zip.open(self.entries[name]) as stream:
                done = 0
                while piece := stream.read(_PIECE):
                    done += len(piece)
                    self._left -= len(piece)
                    if done > most:
                        raise Undecodable(
                            f"{shown(name)} unpacks to more than the {most // 2**20} MiB that are allowed"
                        )
                    if self._left < 0:
                        raise Undecodable(
                            f"unpacks to more than the {MAX_UNPACKED // 2**30} GiB that are allowed"
                        )
                    yield piece
                if done != self.entries[name].file_size:
                    raise Undecodable(f"{shown(name)} is not of the size that the archive says; {_PACK}")
        except (Undecodable, MemoryError):
            raise
        except Exception as error:  # zlib, lzma and bz2 have an error each, and headers that lie have others
            raise Undecodable(f"{shown(name)} cannot be unpacked ({_said(error)}); {_PACK}") from error


class _Measured(io.BufferedReader):
    """A file of which no more is read at once than an archive's directory may have."""

    def __init__(self, file: BinaryIO) -> None:
        assert isinstance(file, io.BufferedReader)
        super().__init__(file.raw)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise Undecodable(
                f"has a directory of more than {MAX_DIRECTORY // 2**20} MiB; at most {MAX_ENTRIES} entries "
                "are allowed"
            )
        return super().read(size)


def _checked(infos: list[zipfile.ZipInfo], directory: int) -> Mapping[str, zipfile.ZipInfo]:
    """The files by their names. ``directory`` is where the entries must have ended."""
    if len(infos) > MAX_ENTRIES:
        raise Undecodable(f"has {len(infos)} entries; at most {MAX_ENTRIES} are allowed")
    _check_apart(infos, directory)
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        _check_name(info.filename)
        if info.is_dir():
            continue
        if info.flag_bits & 1:
            raise Undecodable(f"{shown(info.filename)} is encrypted; pack the archive without a password")
        name = str(PurePosixPath(info.filename))
        if name in found:
            raise Undecodable(f"has two entries named {shown(name)}; give each file one name")
        found[name] = info
    return found


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if not name:
        raise Undecodable(f"has an entry without a name; {_PACK}")
    if len(name) > MAX_NAME:
        raise Undecodable(f"has an entry {shown(name)} whose name is longer than {MAX_NAME} characters")
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise Undecodable(f"has the entry {shown(name)}; names must be relative, without '..', '\\' and ':'")


def _check_apart(infos: list[zipfile.ZipInfo], directory: int) -> None:
    """Entries that share their bytes make an archive of kilobytes unpack to terabytes."""
    end, before = 0, ""
    for info in sorted(infos, key=lambda one: one.header_offset):
        if info.header_offset < end:
            raise Undecodable(f"has overlapping entries {shown(before)} and {shown(info.filename)}; {_PACK}")
        end, before = info.header_offset + _HEADER + info.compress_size, info.filename
    if end > directory:
        raise Undecodable(f"has the entry {shown(before)}, which ends beyond the file; {_PACK}")


def shown(name: str) -> str:
    """A name as messages have it: quoted, and its beginning alone where it is long."""
    return repr(name if len(name) <= 100 else f"{name[:100]}…")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200].rstrip(": ")
