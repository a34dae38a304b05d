"""Everything on one machine: starts Valkey, the API and workers, keeps them running, and ends them.

``with Supervisor(settings, workers) as server:`` is a running server; leaving the block ends every process
it started. All of it happens in the main thread: the kernel's "die with your parent" means the thread that
started the child.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import httpx

from cli.embedded import valkey
from cli.embedded.folder import DataFolder
from cli.embedded.keeper import Child, Keeper
from cli.signals import undisturbed
from shared.accounts.keys import KeyStore
from shared.db.engine import Database
from shared.errors import ConfigurationError, Unavailable
from shared.jobs.workers import WorkerRegistry
from shared.settings import Settings

#: seconds: the promise is ten in all, and Valkey ends last because the others talk to it
_STOP_PROGRAMS, _STOP_VALKEY = 7.0, 2.0
#: seconds the API and a worker may take to be there; a cold disk reads torch slowly
_READY = 300.0
#: exit statuses of a program that does not want to run, as its message says; any other, and a signal, may be
#: one job's doing, or an errand of its own
_REFUSALS = (1, 2)
#: why a process cannot be started, and what helps
_CURES = {
    errno.EMFILE: "allow this process more open files, with `ulimit -n 4096` say",
    errno.ENFILE: "this machine has too many open files: end what holds them",
    errno.ENOMEM: "free some memory",
    errno.EAGAIN: "this user has too many processes: end some, or raise `ulimit -u`",
}
_CURE = "install qanvas again"
#: what programs of others are given of the environment
_BARE = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Supervisor:
    def __init__(self, settings: Settings, workers: Sequence[str] | None = None) -> None:
        """``workers``: the device of each, as ``QANVAS_DEVICE`` names it; by default one worker."""
        self._settings = settings
        self._workers = [settings.device] if workers is None else list(workers)
        self._folder = DataFolder(settings.data)
        # neither the guard nor Valkey needs what else is in the environment, passwords among it
        self._bare_env = {name: os.environ[name] for name in _BARE if name in os.environ}
        self._keeper = Keeper(self._folder, self._bare_env)
        self._valkey: valkey.ValkeyChild | None = None
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
        self._keeper.tend()

    def _start(self) -> None:
        settings = self._settings
        if settings.port == 0:
            settings = settings.with_(port=valkey.free_port(_plain(settings.host)))
        _check_port(settings.host, settings.port)
        database = Database(settings.database_url)
        try:
            database.migrate()
            if not settings.is_loopback and not KeyStore(database).any():
                raise ConfigurationError(
                    f"listening on {settings.host} without a key would let anybody in; make a key with: "
                    f"QANVAS_DATA={settings.data} qanvas keys create NAME"
                )
            if not settings.has_own_redis:
                settings = settings.with_(redis_url=self._start_valkey())
            self._start_programs(settings)
            self.url = f"http://{_bracketed(settings.host)}:{settings.port}"
            self._wait_until_ready(database, settings)
        finally:
            database.dispose()
        with contextlib.suppress(OSError):  # said and tried again with each round
            self._folder.announce(self.url)

    def _start_valkey(self) -> str:
        """Start Valkey, without its data where it cannot read them. Raises ConfigurationError."""
        server = self._valkey = valkey.ValkeyChild(
            self._folder.path / "valkey",
            self._settings.valkey_memory_bytes,
            self._bare_env,
            self._folder.log("valkey"),
        )
        self._add(server)
        while not server.answered:
            self.tend()
            if server.unanswered > valkey.UNREADABLE:
                server.put_back()
                raise ConfigurationError(f"Valkey did not start; it says:\n{server.said()}")
            time.sleep(0.02)
        return server.address.url

    def _start_programs(self, settings: Settings) -> None:
        # a worker hands its jobs back within the time that stopping may take
        drain = min(settings.drain_seconds, _STOP_PROGRAMS - 2)
        settings = settings.with_(drain_seconds=drain, key="")
        workers = {f"worker-{number}": device for number, device in enumerate(self._workers, 1)}
        for name, device in {"api": settings.device, **workers}.items():
            env = {**os.environ, **settings.with_(device=device).as_env()}
            # -P: a folder called api/ where the user happens to stand is not ours
            program: list[str | Path] = [sys.executable, "-P", "-m", "cli.main", name.partition("-")[0]]
            self._add(Child(name, program, env, self._folder.log(name), final=_REFUSALS))

    def _add(self, child: Child) -> None:
        try:
            self._keeper.add(child)
        except OSError as error:
            raise ConfigurationError(
                f"cannot start {child.name}: {error.strerror}; {_CURES.get(error.errno or 0, _CURE)}"
            ) from None

    def _wait_until_ready(self, database: Database, settings: Settings) -> None:
        deadline = time.monotonic() + _READY
        with httpx.Client(base_url=_reachable(self.url), timeout=2.0, trust_env=False) as client:
            while not (self._has_worker(database, settings) and _is_ready(client)):
                self.tend()
                for child in self._keeper.children:
                    if child.dead and child.status in child.final:
                        raise ConfigurationError(_refusal(child))
                if time.monotonic() > deadline:
                    raise ConfigurationError(
                        f"not ready after {_READY:.0f} s; see {self._folder.path / 'logs'}"
                    )
                time.sleep(0.05)
        for child in self._keeper.children:  # what ran once is started again for ever
            child.final = ()

    def _has_worker(self, database: Database, settings: Settings) -> bool:
        ours = {child.process.pid for child in self._keeper.children if child.process is not None}
        try:
            alive = WorkerRegistry(database).alive(within=settings.lease_seconds)
        except Unavailable:  # a busy database is asked again
            return False
        return any(worker.pid in ours and worker.host == socket.gethostname() for worker in alive)

    def _stop(self) -> None:
        with undisturbed():  # the first signal may come while what failed is cleared up
            programs = [one for one in self._keeper.children if one is not self._valkey]
            servers = [self._valkey] if self._valkey is not None else []
            self._keeper.stop([(programs, _STOP_PROGRAMS), (servers, _STOP_VALKEY)])
            if self._valkey is not None:
                self._valkey.clear()
            self._folder.release()


def _refusal(child: Child) -> str:
    """What a program that does not want to run says: its own message where it ends with one."""
    said = child.said()
    message = said.rpartition("\n")[2].removeprefix("qanvas: ")
    if said and message != said.rpartition("\n")[2]:
        return f"{child.name} did not start: {message}"
    return f"{child.name} did not start; the end of {child.log}:\n{said}"


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
