"""Migrations that are interrupted, meet each other, come too late, or would change tables under a worker."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from shared.db import revisions
from shared.db.engine import Database
from shared.db.tables import metadata, outputs
from shared.db.upgrading import refuse_beside_workers
from shared.errors import ConfigurationError
from shared.jobs.entities import Finish, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.store import JobStore
from shared.settings import Settings
from shared.states import Status
from tests.jobs.factory import new_output, submit
from tests.servers import Postgres, Qanvas, drill_settings

#: a job as the first revision had it
_JOB = {
    "id": "job_01J00000000000000000000000",
    "tenant": "default",
    "task": "text-to-image",
    "model": "fake",
    "queue": "default",
    "status": "queued",
    "priority": 5,
    "input": '{"prompt": "a red apple", "seed": 7}',
    "metadata": "{}",
    "attempt": 0,
    "attempts": 0,
    "max_attempts": 3,
    "created_at": 1_700_000_000.0,
    "queued_at": 1_700_000_000.0,
}
_WORKER = {
    "id": "wrk_01J00000000000000000000000",
    "host": "elsewhere",
    "pid": 7,
    "device": "cpu",
    "slots": 1,
    "queues": '["default"]',
    "models": "[]",
    "memory": "{}",
    "started_at": 1_700_000_000.0,
}

#: migrates, and kills itself with SIGKILL before the given one of the statements that change something
_DYING = """
import os, signal, sys
import sqlalchemy as sa
from shared.db.engine import Database

database, left = Database(sys.argv[1]), int(sys.argv[2])

def count(connection, cursor, statement, *_):
    global left
    left -= statement.split()[0].upper() in ("CREATE", "ALTER", "DROP", "UPDATE")
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

sa.event.listen(database.engine, "before_cursor_execute", count)
database.migrate()
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'qanvas.db'}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    url = postgres.create()
    yield url
    postgres.drop(url)


@pytest.fixture
def old(empty_url: str) -> Iterator[Database]:
    """A database at the first revision, with one queued job."""
    opened = Database(empty_url)
    with opened.write() as connection:
        command.upgrade(revisions.config(connection), "0001")
        _insert(connection, "jobs", _JOB)
    yield opened
    opened.dispose()


def _insert(connection: sa.Connection, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(row)
    values = ", ".join(f":{name}" for name in row)
    connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)


def _is_whole(database: Database) -> bool:
    """Whether the tables are exactly those of this version, and the job is still in its queue."""
    database.check_migrated()
    with database.read() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    job = JobStore(database).get(_JOB["id"])
    return (
        not differences and job.status is Status.QUEUED and job.input == {"prompt": "a red apple", "seed": 7}
    )


def _run(database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    url = database.url.render_as_string(hide_password=False)
    command_line = [sys.executable, "-c", _DYING, url, *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(command_line, cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("statement", [1, 12, 30])
def test_a_migration_that_is_killed_in_the_middle_has_changed_nothing_and_runs_again(
    old: Database, statement: int
) -> None:
    ended = _run(old, str(statement))
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert old.has_older_tables()
    with old.read() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "0001"
        assert "due_at" not in {column["name"] for column in sa.inspect(connection).get_columns("jobs")}
    old.migrate()
    assert _is_whole(old)


@pytest.mark.slow
def test_processes_that_migrate_at_once_all_end_well(
    old: Database, qanvas: Callable[..., Qanvas], tmp_path: Path
) -> None:
    url = old.url.render_as_string(hide_password=False)
    settings = drill_settings(tmp_path, url, "redis://127.0.0.1:1/0")
    together = [qanvas("migrate", settings=settings) for _ in range(3)]
    assert [process.wait() for process in together] == [0, 0, 0], [one.said() for one in together]
    assert _is_whole(old)
    again = qanvas("migrate", settings=settings)
    assert again.wait() == 0, again.said()
    assert _is_whole(old)


@pytest.fixture
def later(database: Database) -> Iterator[Database]:
    """A database that a later version has migrated."""
    current = sa.text("SELECT version_num FROM alembic_version")
    change = sa.text("UPDATE alembic_version SET version_num = :revision")
    with database.write() as connection:
        own = connection.execute(current).scalar_one()
        connection.execute(change, {"revision": "9999"})
    yield database
    with database.write() as connection:
        connection.execute(change, {"revision": own})


def test_a_database_that_a_later_version_has_migrated_is_refused_with_the_cure(later: Database) -> None:
    for use in (later.check_migrated, later.migrate, later.has_older_tables):
        with pytest.raises(
            ConfigurationError, match=r"revision 9999.* a later version of Qanvas has migrated it.* Run"
        ):
            use()


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_no_command_uses_a_database_of_a_later_version(
    later: Database, settings: Settings, qanvas: Callable[..., Qanvas]
) -> None:
    commands = (
        ("migrate",),
        ("up", "--port", "0"),
        ("api",),
        ("worker",),
        ("keys", "list"),
        ("tenants", "list"),
    )
    started = [qanvas(*words, settings=settings) for words in commands]
    for process in started:
        assert process.wait() == 1, process.said()
        assert "a later version of Qanvas has migrated it" in process.said()
        assert "Traceback" not in process.said()


def test_no_table_is_changed_while_a_worker_uses_it(old: Database) -> None:
    with old.write() as connection:
        _insert(connection, "workers", {**_WORKER, "last_seen": time.time() - 5})
    with pytest.raises(ConfigurationError, match=r"wrk_01J0+ on elsewhere\. Stop the API and all workers"):
        refuse_beside_workers(old, alive_within=30)
    refuse_beside_workers(old, alive_within=1)  # dead for longer than that
    old.migrate()
    refuse_beside_workers(old, alive_within=30)  # there is nothing to change
    assert _is_whole(old)


_REPLACES_JOBS = """
from alembic import op
import sqlalchemy as sa

revision, down_revision, branch_labels, depends_on = "9999", "{head}", None, None

def upgrade():
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("model", type_=sa.String(300))
"""


def test_a_migration_that_replaces_a_table_keeps_the_rows_that_refer_to_it(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite alters a column by copying its table; dropping the old one would delete what refers to it."""
    later = Database(empty_url)
    later.migrate()
    store, leases = JobStore(later), Leases(later, 30)
    job = submit(store)
    [claimed] = leases.claim("wrk_1", "default")
    leases.finish([Finish(job.id, claimed.attempt, Succeeded(outputs=(new_output(),)))])
    scripts = tmp_path / "migrations"
    shutil.copytree(revisions.MIGRATIONS, scripts)
    with later.read() as connection:
        head = MigrationContext.configure(connection).get_current_revision()
    (scripts / "versions" / "9999_replaces_jobs.py").write_text(_REPLACES_JOBS.format(head=head))
    monkeypatch.setattr(revisions, "MIGRATIONS", scripts)
    later.migrate()
    assert [one.key for one in store.get(job.id).outputs] == [new_output().key]
    store.delete(job.id)  # and they still go with it
    with later.read() as connection:
        assert connection.execute(sa.select(outputs)).all() == []
    later.dispose()


def test_a_database_without_tables_is_migrated_whoever_runs(empty_url: str) -> None:
    database = Database(empty_url)
    refuse_beside_workers(database, alive_within=30)
    database.migrate()
    database.check_migrated()
    database.dispose()
