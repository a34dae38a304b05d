"""Everything on one machine: starts Valkey, the API and workers, keeps them running, and ends them.

``with Supervisor(settings, workers) as server:`` is a running server; leaving the block ends every process
it started. All of it happens in the main thread: the kernel's "die with your parent" means the thread that
started the child.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import httpx

from cli.embedded import children, guard, valkey
from cli.embedded.folder import DataFolder
from shared.database import Database
from shared.errors import ConfigurationError, Unavailable
from shared.exits import START_AGAIN
from shared.jobs.keys import KeyStore
from shared.jobs.leases import Leases
from shared.settings import SETTINGS, Settings

log = logging.getLogger(__name__)

#: seconds: the promise is ten in all, and Valkey ends last because the others talk to it
_STOP_PROGRAMS, _STOP_VALKEY = 7.0, 2.0
#: seconds the API and a worker may take to be there; a cold disk reads torch slowly
_READY = 300.0
#: seconds a child must live for its earlier deaths to be forgotten
_STEADY = 30.0
_LONGEST_BACKOFF = 10.0
_DEFAULT_REDIS = next(setting.default for setting in SETTINGS if setting.name == "redis_url")


@dataclass
class Child:
    """A program that is started again when it dies."""

    name: str
    command: list[str | Path]
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    started: float = 0.0
    #: when to start it again after a death, by the monotonic clock
    due: float = field(default=0.0)


class Supervisor:
    def __init__(self, settings: Settings, workers: Sequence[str] | None = None) -> None:
        """``workers``: the device of each, as ``QANVAS_DEVICE`` names it; by default one worker."""
        self._settings = settings
        self._workers = [settings.device] if workers is None else list(workers)
        self._folder = DataFolder(settings.data)
        self._children: list[Child] = []
        self._guard: subprocess.Popen[bytes] | None = None
        self._valkey: Child | None = None
        self._address = valkey.Address()
        self.url = ""

    def __enter__(self) -> Supervisor:
        self._folder.acquire()
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop()

    def tend(self) -> None:
        """Start again what died. Call it a few times a second, from the main thread."""
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._note_death(child, child.process.returncode, now)
            if child.process is None and now >= child.due:
                self._launch(child)

    def _start(self) -> None:
        settings = self._settings
        if settings.port == 0:
            settings = settings.with_(port=valkey.free_port(_plain(settings.host)))
        _check_port(settings.host, settings.port)
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__], stdin=subprocess.PIPE, start_new_session=True
        )
        database = Database(settings.database_url)
        try:
            database.migrate()
            if not settings.is_loopback and not KeyStore(database).any():
                raise ConfigurationError(
                    f"listening on {settings.host} without a key would let anybody in; make a key with: "
                    f"QANVAS_DATA={settings.data} qanvas keys create NAME"
                )
            if settings.redis_url == _DEFAULT_REDIS:
                settings = settings.with_(redis_url=self._start_valkey())
            self._start_programs(settings)
            self.url = f"http://{_bracketed(settings.host)}:{settings.port}"
            self._wait_until_ready(database, settings)
        finally:
            database.dispose()
        self._folder.announce(self.url)

    def _start_valkey(self) -> str:
        folder = self._folder.path / "valkey"
        self._address = valkey.address_in(folder)
        self._valkey = Child(
            "valkey", valkey.command(folder, self._address), os.environ, self._folder.log("valkey")
        )
        self._children.append(self._valkey)
        self._launch(self._valkey)
        assert self._valkey.process is not None
        valkey.wait(self._valkey.process, self._address, log=self._valkey.log)
        return self._address.url

    def _start_programs(self, settings: Settings) -> None:
        # a worker hands its jobs back within the time that stopping may take
        drain = min(settings.drain_seconds, _STOP_PROGRAMS - 2)
        settings = settings.with_(drain_seconds=drain, key="")
        workers = {f"worker-{number}": device for number, device in enumerate(self._workers, 1)}
        for name, device in {"api": settings.device, **workers}.items():
            env = {**os.environ, **settings.with_(device=device).as_env()}
            # -P: a folder called api/ where the user happens to stand is not ours
            program: list[str | Path] = [sys.executable, "-P", "-m", "cli.main", name.partition("-")[0]]
            child = Child(name, program, env, self._folder.log(name))
            self._children.append(child)
            self._launch(child)

    def _launch(self, child: Child) -> None:
        child.process = children.start(child.command, log=child.log, env=child.env)
        child.started = time.monotonic()
        self._tell_guard(f"+{child.process.pid}")
        self._folder.record([one.process.pid for one in self._children if one.process is not None])

    def _note_death(self, child: Child, status: int, now: float) -> None:
        assert child.process is not None
        children.signal_group(child.process.pid, signal.SIGKILL)  # what it started itself goes with it
        self._tell_guard(f"-{child.process.pid}")
        child.deaths = 1 if now - child.started > _STEADY else child.deaths + 1
        wait = 0.0 if child.deaths == 1 else min(0.5 * 2**child.deaths, _LONGEST_BACKOFF)
        log.warning(
            "%s ended (%s), starting it again in %.0f s; see %s", child.name, _why(status), wait, child.log
        )
        child.process, child.due = None, now + wait

    def _wait_until_ready(self, database: Database, settings: Settings) -> None:
        deadline = time.monotonic() + _READY
        with httpx.Client(base_url=_reachable(self.url), timeout=2.0, trust_env=False) as client:
            while not (self._has_worker(database, settings) and _is_ready(client)):
                for child in self._children:
                    # an exit status means that it does not want to run, but for the one that asks for
                    # another start; a signal may be one job's doing
                    status = child.process.poll() if child.process is not None else None
                    if status is not None and status > 0 and status != START_AGAIN:
                        raise ConfigurationError(
                            f"{child.name} did not start; the end of {child.log}:\n{children.tail(child.log)}"
                        )
                if time.monotonic() > deadline:
                    raise ConfigurationError(
                        f"not ready after {_READY:.0f} s; see {self._folder.path / 'logs'}"
                    )
                self.tend()
                time.sleep(0.05)

    def _has_worker(self, database: Database, settings: Settings) -> bool:
        ours = {child.process.pid for child in self._children if child.process is not None}
        try:
            alive = Leases(database, settings.lease_seconds).workers(alive_within=settings.lease_seconds)
        except Unavailable:  # a busy database is asked again
            return False
        return any(worker.pid in ours and worker.host == socket.gethostname() for worker in alive)

    def _stop(self) -> None:
        programs = [one for one in self._children if one is not self._valkey]
        servers = [self._valkey] if self._valkey is not None else []
        for group, grace in ((programs, _STOP_PROGRAMS), (servers, _STOP_VALKEY)):
            children.stop([one.process for one in group if one.process is not None], grace=grace)
        if self._guard is not None:
            self._tell_guard("done")
            self._guard.communicate()
        if self._address.socket is not None:
            self._address.socket.unlink(missing_ok=True)
        self._folder.release()

    def _tell_guard(self, line: str) -> None:
        if self._guard is None or self._guard.stdin is None or self._guard.poll() is not None:
            return
        try:
            self._guard.stdin.write(f"{line}\n".encode())
            self._guard.stdin.flush()
        except BrokenPipeError:  # somebody killed it; on Linux the kernel still ends the children
            log.warning("the guard is gone")


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").is_success
    except httpx.HTTPError:
        return False


def _check_port(host: str, port: int) -> None:
    """Raises ConfigurationError when the address cannot be listened on."""
    plain = _plain(host)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            plain, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {port} of {host} is in use by another program; "
                "choose another with --port, or 0 for any free one"
            ) from None
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def _plain(host: str) -> str:
    return host.strip("[]")


def _bracketed(host: str) -> str:
    return f"[{_plain(host)}]" if ":" in host else host


def _reachable(url: str) -> str:
    """Where this machine reaches a server that listens on every address."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _why(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
