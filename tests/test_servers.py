"""The servers that every other test stands on."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.db.engine import Database
from shared.jobs.store import JobStore
from shared.messaging.embedded_address import address_in
from tests.databases import Databases
from tests.jobs.factory import submit
from tests.servers import Postgres, Valkey, wait_until


def test_a_database_is_migrated_and_each_test_has_its_own(database: Database) -> None:
    database.check_migrated()
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one() == 0


def test_valkey_keeps_what_it_was_told_when_it_is_killed(tmp_path: Path) -> None:
    server = Valkey(tmp_path).start()
    try:
        server.command("SET", "apple", "red")
        server.kill()
        server.start()
        assert b"red" in server.command("GET", "apple")
    finally:
        server.stop()


@pytest.mark.parametrize("length", [10, 200])
def test_valkey_listens_on_a_socket_even_where_the_path_of_one_in_its_folder_would_be_too_long(
    length: int,
) -> None:
    folder = Path("/tmp") / ("x" * length)
    address = address_in(folder)
    assert address.socket is not None
    assert len(str(address.socket)) < 100
    assert (address.socket.parent == folder) == (length == 10)
    assert address_in(folder) == address != address_in(folder / "other")


def test_a_condition_that_never_holds_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="in vain for the moon"):
        wait_until(lambda: False, 0.05, what="the moon")


def test_a_database_is_used_again_empty_and_under_another_name(
    postgres: Postgres, databases: Databases
) -> None:
    def names() -> int:
        with Database(postgres.url()).read() as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM pg_database").scalar_one())

    before = names()
    urls: set[str] = set()
    for _ in range(6):
        url = databases.borrow()
        assert url not in urls
        urls.add(url)
        store = JobStore(Database(url))
        assert store.counts() == {}
        submit(store)
        databases.give_back(url)  # while its connections are open
    assert names() <= before + 2
