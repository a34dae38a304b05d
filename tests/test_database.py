"""Connections: the server's clock, asked seldom, and who may write when."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from shared.db import engine, postgresql, sqlite
from shared.db.engine import Database
from shared.errors import Unavailable
from shared.jobs.store import JobStore
from tests.disks import mountable, small_disk
from tests.jobs.factory import submit


def _statements(database: Database) -> list[str]:
    seen: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *args: seen.append(str(args[2])))
    return seen


def test_the_clock_is_near_the_databases_own(database: Database) -> None:
    with database.read() as connection:
        said = [database.now(connection) for _ in range(3)]
        if database.dialect == "postgresql":
            own = connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())::float8"))
            truth = float(own.scalar_one())
        else:
            truth = time.time()
    assert said == sorted(said)
    assert truth - 30 < said[0] <= said[-1] <= truth + 0.1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_server_is_asked_for_the_time_once_and_again_when_that_is_old(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _statements(database)
    with database.read() as connection:
        monkeypatch.setattr(engine, "_CLOCK_SECONDS", 3600.0)
        for _ in range(5):
            database.now(connection)
        assert sum("clock_timestamp" in text for text in seen) == 1
        monkeypatch.setattr(engine, "_CLOCK_SECONDS", -1.0)
        database.now(connection)
        assert sum("clock_timestamp" in text for text in seen) == 2


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_connection_that_broke_while_nobody_used_it_fails_no_request(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_TRUSTED_SECONDS", 0.0)
    with database.read() as connection:
        first = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    end = sa.text("SELECT pg_terminate_backend(:pid, 10000)").bindparams(pid=first)
    with sa.create_engine(database.engine.url).connect() as other:
        assert other.scalar(end) is True
    with database.read() as connection:
        assert connection.scalar(sa.text("SELECT pg_backend_pid()")) != first


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_connection_that_was_just_used_is_not_asked_whether_it_holds(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(database.engine.dialect, "do_ping", asked.append)
    for seconds, times in ((3600.0, 0), (0.0, 3)):
        monkeypatch.setattr(postgresql, "_TRUSTED_SECONDS", seconds)
        for _ in range(3):
            with database.read():
                pass
        assert len(asked) == times


def _transactions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Those that SQLite is asked to begin from now on for writing, a connection for each."""
    begun: list[object] = []
    begin = sqlite.begin_writing

    def note(driver: object) -> None:
        begun.append(driver)
        begin(driver)

    monkeypatch.setattr(sqlite, "begin_writing", note)
    return begun


@pytest.fixture
def foreign(database: Database) -> Iterator[sqlite3.Connection]:
    """A connection that is none of ours, in the middle of writing."""
    with closing(sqlite3.connect(str(database.url.database), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_writer_asks_for_another_processs_end_at_a_steady_pace(
    database: Database, foreign: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own waiting grows to 100 ms, so that a process which writes all the time keeps others out."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 30:
            foreign.execute("COMMIT")

    monkeypatch.setattr(time, "sleep", sleep)
    with database.write() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 15_000
    assert slept == [0.0003] * 30


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_writer_gives_up_when_another_process_never_ends(
    database: Database, foreign: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    with pytest.raises(Unavailable, match="database is locked"), database.write():
        pass
    foreign.execute("COMMIT")
    with database.write():
        pass


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_writers_of_one_process_take_turns_on_sqlite(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that asked the database again and again would hold a connection."""
    begun = _transactions(monkeypatch)

    def write() -> None:
        with database.write():
            pass

    second = threading.Thread(target=write)
    with database.write():
        second.start()
        second.join(0.3)
        assert second.is_alive()
        assert database.engine.pool.checkedout() == 1  # type: ignore[attr-defined]
        assert len(begun) == 1
    second.join(30)
    assert len(begun) == 2
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    with database.write(), pytest.raises(Unavailable), database.write():
        pass


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_server_that_is_gone_without_a_word_is_noticed_within_a_minute(database: Database) -> None:
    with database.read() as connection:
        driver: Any = connection.connection.driver_connection
        with socket.socket(fileno=os.dup(driver.pgconn.socket)) as used:
            tcp = socket.IPPROTO_TCP
            idle, interval, count = (
                used.getsockopt(tcp, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert idle + interval * count <= 60
            assert used.getsockopt(tcp, socket.TCP_USER_TIMEOUT) <= 60_000


def test_connections_that_turn_out_to_be_read_only_are_all_dropped(database: Database) -> None:
    """As behind the name of a server that has become a standby of another."""
    store = JobStore(database)
    turn = {
        "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "sqlite": "PRAGMA query_only = ON",
    }[database.dialect]
    with database.read() as one, database.read() as other:
        for connection in (one, other):
            connection.exec_driver_sql(turn)
    with pytest.raises(Unavailable, match="the database cannot be written") as unwritten:
        submit(store)
    assert unwritten.value.public == "the database cannot be written; the server's log says why"
    with database.read(), database.read(), database.read():
        submit(store)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_whose_disk_is_full_is_unavailable_until_there_is_room(
    database: Database, tmp_path: Path
) -> None:
    if (reason := mountable(tmp_path)) is not None:
        pytest.skip(reason)
    with small_disk(tmp_path / "disk", 4) as disk:
        full = Database(f"sqlite:///{disk.path / 'qanvas.db'}")
        full.migrate()
        store = JobStore(full)
        kept = submit(store)
        disk.fill()

        def submit_many() -> None:  # a little room may be left in pages that the file has already
            for _ in range(50):
                submit(store)

        with pytest.raises(Unavailable, match=r"the database cannot be written.*; free some space"):
            submit_many()
        assert store.get(kept.id) == kept
        disk.empty()
        submit(store)
        full.dispose()


_FAILING = """
import resource, sys
from shared.db.engine import Database
from shared.errors import Unavailable
from shared.jobs.store import JobStore
from tests.jobs.factory import submit

database = Database(sys.argv[1])
store = JobStore(database)
submit(store)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))  # each write fails, with EFBIG
try:
    submit(store)
except Unavailable as error:
    print(error.message)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
submit(store)
print("written")
"""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_disk_that_fails_for_a_while_makes_the_database_unavailable_and_no_longer(
    database: Database, database_url: str
) -> None:
    command = [sys.executable, "-c", _FAILING, database_url]
    said = subprocess.run(
        command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True
    ).stdout
    assert said.splitlines() == ["the database cannot be written", "written"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_process_that_is_stopped_within_a_transaction_does_not_keep_its_rows_locked(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = JobStore(database)
    job = submit(store)
    monkeypatch.setattr(postgresql, "IDLE_SECONDS", 0.3)
    stopped = Database(database_url)
    lock = sa.text("SELECT id FROM jobs WHERE id = :id FOR UPDATE").bindparams(id=job.id)

    def hold() -> None:
        with stopped.write() as connection:
            connection.execute(lock)
            store.cancel(job.id)  # waits for the row, as upkeep would, while nothing more is said here
            connection.execute(lock)

    with pytest.raises(Unavailable, match="idle-in-transaction"):
        hold()
    stopped.dispose()
