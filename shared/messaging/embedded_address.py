"""Where the Valkey listens that ``qanvas up`` starts: the same for whoever knows its folder."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

_SOCKET = "valkey.sock"
#: bytes; the kernel's limit for a socket's path is 108 on Linux and 104 on macOS
_LONGEST_SOCKET_PATH = 100


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a unix socket, or a port of loopback."""

    socket: Path | None = None
    port: int = 0

    @property
    def url(self) -> str:
        if self.socket is not None:
            return f"redis+socket://{quote(str(self.socket))}"
        return f"redis://127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        """Whether PING is answered; a server that still loads its data does not count."""
        family = socket.AF_INET if self.socket is None else socket.AF_UNIX
        with socket.socket(family) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(("127.0.0.1", self.port) if self.socket is None else str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False


def address_in(folder: Path) -> Address:
    """A unix socket in the folder; where its path would be too long, in a folder of this user's own below the
    one for temporary files. Never a port: every user of this machine reaches those."""
    path = folder / _SOCKET
    if _fits(path):
        return Address(socket=path)
    name = f"qanvas-{os.geteuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    places = [Path(place) / name / _SOCKET for place in (tempfile.gettempdir(), "/tmp")]
    return Address(socket=next(filter(_fits, places)))


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) < _LONGEST_SOCKET_PATH
