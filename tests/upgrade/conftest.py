"""A version's data folder, opened by the code of today."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.db.engine import Database
from shared.settings import Settings
from shared.storage import Storage
from shared.storage.factory import open_storage
from tests.receivers import Receiver, receiving
from tests.servers import Postgres, Qanvas, Valkey, free_port, wait_until
from tests.upgrade import fixture
from tests.upgrade.fixture import Fixture

TERMINAL = ("succeeded", "failed", "canceled", "expired")
#: seconds that all which was left behind may take; alone it is half a minute
PATIENCE = 240.0


@dataclass
class Opened:
    """A server of this version on what an earlier one left behind."""

    found: Fixture
    settings: Settings
    receiver: Receiver
    url: str
    processes: list[Qanvas]
    #: by role, jobs that have ended
    _ended: dict[str, dict[str, Any]] = field(default_factory=dict)

    def http(self, tenant: str = "default") -> httpx.Client:
        key = self.found.said["keys"]["acme" if tenant == "acme" else "admin"]
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=70, trust_env=False)

    def get(self, path: str, tenant: str = "default") -> Any:
        with self.http(tenant) as http:
            return http.get(path).raise_for_status().json()

    def job(self, role: str, wait: int = 0) -> dict[str, Any]:
        said = self.found.jobs[role]
        return dict(self.get(f"/v1/jobs/{said['id']}?wait={wait}", said["tenant"]))

    def ended(self, role: str) -> dict[str, Any]:
        """The job, once it is terminal."""
        if role not in self._ended:

            def over() -> bool:
                self._ended[role] = self.job(role, wait=10)
                return self._ended[role]["status"] in TERMINAL

            wait_until(over, PATIENCE, what=f"{role} to end; {self.processes[-1].said()[-3000:]}")
        return self._ended[role]

    def events(self, role: str) -> list[dict[str, Any]]:
        """The data of all events of a job that has ended, each with its ``type``."""
        said, found, kind = self.found.jobs[role], [], ""
        with (
            self.http(said["tenant"]) as http,
            http.stream("GET", f"/v1/jobs/{said['id']}/events") as answer,
        ):
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                if line.startswith("data: "):
                    found.append({"type": kind, **json.loads(line.removeprefix("data: "))})
        return found

    @cached_property
    def database(self) -> Database:
        return Database(self.settings.database_url)

    @cached_property
    def storage(self) -> Storage:
        return open_storage(self.settings)

    def close(self) -> None:
        for process in self.processes:
            process.clean()
        self.database.dispose()


_EACH = [(name, dialect) for name in fixture.names() for dialect in ("sqlite", "postgresql")]


@pytest.fixture(scope="module", params=_EACH, ids="-".join)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Everything runs again: on SQLite as `qanvas up` runs it, on PostgreSQL by its parts."""
    name, dialect = request.param
    folder = tmp_path_factory.mktemp("upgrade")
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        said = fixture.unpack(name, dialect, folder)
        data = folder / "data"
        environment = {
            "QANVAS_DATA": str(data),
            "QANVAS_PORT": str(free_port()),
            "QANVAS_FAKE_MODELS": "1",
            "QANVAS_DEVICE": "cpu",
            "QANVAS_WEBHOOK_ALLOW_PRIVATE": "1",
            "QANVAS_LEASE_SECONDS": "10",
            "QANVAS_UPKEEP_SECONDS": "0.5",
        }
        if dialect == "postgresql":
            postgres: Postgres = request.getfixturevalue("postgres")
            environment["QANVAS_DATABASE_URL"] = url = postgres.create()
            stack.callback(postgres.drop, url)
            fixture.restore(url, data / "database.sql")
            # the machine of the workers that died is gone: their leases have to run out
            shutil.rmtree(data / "scratch", ignore_errors=True)
            valkey: Valkey = request.getfixturevalue("valkey")
            valkey.flush()
            environment["QANVAS_REDIS_URL"] = valkey.url
        settings = Settings.from_env(environment)
        found = fixture.bring_here(name, said, settings.database_url, receiver.url)
        address = f"http://127.0.0.1:{settings.port}"
        server = Opened(found, settings, receiver, address, [])
        stack.callback(server.close)
        _start(server, folder)
        yield server


def _start(server: Opened, folder: Path) -> None:
    def start(command: str) -> Qanvas:
        log = folder / "processes" / f"{command}.out"
        server.processes.append(Qanvas([command], server.settings, log))
        return server.processes[-1]

    if server.found.dialect == "sqlite":
        start("up").wait_for_line("ready ", 300)
        return
    migrated = start("migrate")
    if migrated.wait() == 1 and "counts as running for" in migrated.said():  # as it says, by the clock
        time.sleep(server.settings.lease_seconds)
        migrated = start("migrate")
    assert migrated.wait() == 0, migrated.said()
    start("api")
    start("worker").wait_for_line("ready", 180)
    wait_until(lambda: _answers(server), 120, what=f"the API: {server.processes[-2].said()}")


def _answers(server: Opened) -> bool:
    try:
        with server.http() as http:
            return http.get("/readyz").is_success
    except httpx.TransportError:
        return False
