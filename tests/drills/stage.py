"""What a drill breaks: a database, a Valkey, one API process and a few workers, all real."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import sqlalchemy as sa

from shared.db.engine import Database
from shared.exit_codes import START_AGAIN
from shared.settings import Settings
from tests.disks import Disk, mountable, small_disk
from tests.servers import Postgres, Qanvas, Valkey, free_port, wait_until

#: seconds, short, so that what dies is soon missed
LEASE, UPKEEP, DRAIN, BACKOFF, STALL = 2.0, 0.5, 2.0, 0.5, 4.0
#: the small disk's folder, and its size: more than a drill stores
DISK, _MEGABYTES = "disk", 256


@dataclass
class Stage:
    """All that runs. Everything is started on the main thread: it dies with the thread that started it."""

    folder: Path
    settings: Settings
    valkey: Valkey
    postgres: Postgres | None
    #: of everything but the servers; None where none can be mounted
    disk: Disk | None
    api: Qanvas | None = None
    workers: list[Qanvas] = field(default_factory=list)
    started: list[Qanvas] = field(default_factory=list)

    @property
    def storage(self) -> Path:
        """The folder of what is stored."""
        return self.settings.data / "storage"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    def start_api(self) -> None:
        self.api = self._start("api")

    def start_worker(self) -> None:
        self.workers.append(self._start("worker", "--slots", "3"))

    def _start(self, *arguments: str) -> Qanvas:
        log = self.folder / "processes" / f"{len(self.started)}-{arguments[0]}.out"
        self.started.append(Qanvas(arguments, self.settings, log))
        return self.started[-1]

    def wait_until_ready(self) -> None:
        """The API answers, and every worker has said that it is ready."""

        wait_until(self._api_answers, 120, what="the API")
        for worker in self.workers:
            worker.wait_for_line("ready", 120)

    def wait_until_started(self) -> None:
        """What was started has started, or is dead by now: while the storage is away, whoever starts would
        make a new one in its place, as a service that does not wait for its file systems does."""

        def started() -> bool:
            return self._api_answers() and all(
                worker.process.poll() is not None or "ready" in worker.output() for worker in self.workers
            )

        wait_until(started, 120, what="what was started")

    def _api_answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False

    def revive(self) -> Counter[str]:
        """Start again what has ended by itself, as a service manager would; how many workers crashed, by jobs
        that do that, and how many left because they could not go on."""
        counts: Counter[str] = Counter()
        dead = [worker for worker in self.workers if worker.process.poll() is not None]
        for worker in dead:
            left = worker.process.returncode == START_AGAIN
            counts["workers left sick" if left else "workers crashed"] += 1
            self.workers.remove(worker)
            self.start_worker()
        if self.api is None or self.api.process.poll() is not None:
            self.start_api()
        return counts

    def broken_off(self) -> list[str]:
        """Transactions that the database broke off, as each waited for the other: clients see that as a 503,
        and try again, so that nothing else would tell."""
        if self.postgres is None:
            return []
        said = (self.postgres.folder / "postgres.log").read_text(errors="replace")
        return [line for line in said.splitlines() if "deadlock detected" in line]

    def close(self) -> None:
        for process in self.started:
            process.clean()


@contextmanager
def stage(folder: Path, dialect: str, *, workers: int = 3, lease: float = LEASE) -> Iterator[Stage]:
    """Everything up, over an empty database; nothing is left afterwards."""
    for name in ("valkey", "postgres"):
        (folder / name).mkdir(parents=True)
    with _small_disk(folder) as disk:
        yield from _up(folder, dialect, workers, lease, disk)


@contextmanager
def _small_disk(folder: Path) -> Iterator[Disk | None]:
    if mountable(folder) is not None:
        (folder / DISK).mkdir()
        yield None
    else:
        with small_disk(folder / DISK, _MEGABYTES) as disk:
            yield disk


def _up(folder: Path, dialect: str, workers: int, lease: float, disk: Disk | None) -> Iterator[Stage]:
    valkey = Valkey(folder / "valkey").start()
    postgres = Postgres(folder / "postgres").start() if dialect == "postgresql" else None
    on_disk = folder / DISK
    url = f"sqlite:///{on_disk / 'qanvas.db'}" if postgres is None else postgres.create()
    environment = {
        "QANVAS_DATA": str(on_disk / "data"),
        "QANVAS_DATABASE_URL": url,
        "QANVAS_REDIS_URL": valkey.url,
        "QANVAS_PORT": str(free_port()),
        "QANVAS_FAKE_MODELS": "1",
        "QANVAS_DEVICE": "cpu",
        "QANVAS_QUEUES": "default",
        "QANVAS_WEBHOOK_ALLOW_PRIVATE": "1",
        "QANVAS_LEASE_SECONDS": str(lease),
        "QANVAS_UPKEEP_SECONDS": str(UPKEEP),
        "QANVAS_DRAIN_SECONDS": str(DRAIN),
        "QANVAS_STALL_SECONDS": str(STALL),
        "QANVAS_RETRY_BASE_SECONDS": str(BACKOFF),
    }
    found = Stage(folder, Settings.from_env(environment), valkey, postgres, disk)
    try:
        database = Database(url)
        database.migrate()
        witness(database)
        database.dispose()
        found.start_api()
        for _ in range(workers):
            found.start_worker()
        found.wait_until_ready()
        yield found
    finally:
        found.close()
        valkey.stop()
        if postgres is not None:
            postgres.stop()


#: a row for each time a job took on another status, written by the database itself
_STEPS = {
    dialect: f"CREATE TABLE drill_steps (number {key} PRIMARY KEY, job_id text, status text, attempt integer)"
    for dialect, key in (("sqlite", "integer"), ("postgresql", "bigserial"))
}
_NOTE = {
    "sqlite": """
        CREATE TRIGGER drill_note AFTER UPDATE OF status ON jobs WHEN OLD.status <> NEW.status
        BEGIN
          INSERT INTO drill_steps (job_id, status, attempt) VALUES (NEW.id, NEW.status, NEW.attempt);
        END
    """,
    "postgresql": """
        CREATE FUNCTION drill_note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          INSERT INTO drill_steps (job_id, status, attempt) VALUES (NEW.id, NEW.status, NEW.attempt);
          RETURN NEW;
        END $$;
        CREATE TRIGGER drill_note AFTER UPDATE OF status ON jobs FOR EACH ROW
        WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION drill_note()
    """,
}


def witness(database: Database) -> None:
    """Let the database note every step, so that the audit need not trust the code it audits."""
    with database.write() as connection:
        for statement in (_STEPS, _NOTE):
            connection.execute(sa.text(statement[database.dialect]))


def kill(process: Qanvas) -> None:
    """SIGKILL to a process and all it started, at once."""
    family = process.family()
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.process.wait()
