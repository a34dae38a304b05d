"""Fixtures: real servers once for each test process, empty databases for each test.

* ``valkey``        a running Valkey, emptied before each test that asks for ``redis_url``
* ``postgres``      a running PostgreSQL cluster
* ``databases``     migrated and empty databases in it, for one test after another
* ``database_url``  a migrated database of the test's own, on SQLite and then on PostgreSQL; one of them alone
                    with ``@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)``
* ``database``      the same, opened
* ``settings``      settings over that database, that Valkey and a folder of the test's own
* ``qanvas``        starts real `qanvas` processes; whatever they leave is killed after the test
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.db.engine import Database
from shared.settings import Settings
from tests.databases import Databases
from tests.servers import Postgres, Qanvas, Valkey, drill_settings

# test processes run beside each other, and their networks are tiny: more threads only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
# under nohup it is ignored, and what tests start would ignore it too
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays, torch and all: looking through it for garbage takes a second each time."""
    gc.disable()
    found = yield
    gc.freeze()
    gc.enable()
    return found


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    valkey.flush()
    return valkey.url


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("postgres"), autovacuum=False).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def databases(postgres: Postgres) -> Databases:
    postgres.execute("CREATE DATABASE migrated")
    _migrate(postgres.url("migrated"))
    return Databases(postgres, template="migrated")


def _migrate(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.dispose()


@contextmanager
def borrowed_database(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """The URL of an empty database of the kind that ``request.param`` says; SQLite's lies in ``folder``."""
    if request.param == "sqlite":
        path = folder / "qanvas.db"
        shutil.copyfile(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
    else:
        databases: Databases = request.getfixturevalue("databases")
        url = databases.borrow()
        yield url
        databases.give_back(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with borrowed_database(request, tmp_path) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    return drill_settings(tmp_path, database_url, redis_url)


@pytest.fixture
def qanvas(tmp_path: Path) -> Iterator[Callable[..., Qanvas]]:
    """``qanvas("worker", "--slots", "4", settings=settings) -> Qanvas``."""
    started: list[Qanvas] = []

    def start(*arguments: str, settings: Settings, before: str = "") -> Qanvas:
        log = tmp_path / "processes" / f"{len(started)}-{arguments[0]}.out"
        started.append(Qanvas(arguments, settings, log, before))
        return started[-1]

    yield start
    for process in started:
        process.clean()
