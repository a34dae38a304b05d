"""Databases that cannot be used: the operator reads which one and the cure, and nothing is overwritten."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.errors import ConfigurationError, Unavailable
from tests.databases import Databases
from tests.servers import Postgres


def _text(path: Path, _migrated: Path) -> None:
    path.write_text("a shopping list\n" * 500)


def _random_behind_a_header(path: Path, migrated: Path) -> None:
    path.write_bytes(migrated.read_bytes()[:100] + bytes(range(256)) * 64)


def _truncated(path: Path, migrated: Path) -> None:
    path.write_bytes(migrated.read_bytes()[:10_000])


def _folder(path: Path, _migrated: Path) -> None:
    path.mkdir()


def _of_another_program(path: Path, _migrated: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
        other.commit()


def _newer(path: Path, migrated: Path) -> None:
    path.write_bytes(migrated.read_bytes())
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999_from_the_future'")
        newer.commit()


FAULTS = {
    _text: "is no SQLite database, or is encrypted .*; move it away",
    _random_behind_a_header: "is (no SQLite database|a damaged SQLite database)",
    _truncated: "is a damaged SQLite database .*; restore it from a backup",
    _folder: "cannot be opened as a file .*; check that it is a file",
    _of_another_program: r"belongs to another program: it has tables \(recipes\)",
    _newer: "9999_from_the_future.*a later version of Qanvas has migrated it",
}


def _kept(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


@pytest.mark.parametrize(("make", "said"), FAULTS.items(), ids=[make.__name__[1:] for make in FAULTS])
@pytest.mark.parametrize("use", [Database.migrate, Database.check_migrated])
def test_a_file_that_cannot_be_the_database_is_refused_with_its_name_and_stays_as_it_was(
    tmp_path: Path,
    migrated_sqlite: Path,
    make: Callable[[Path, Path], None],
    said: str,
    use: Callable[[Database], None],
) -> None:
    path = tmp_path / "qanvas.db"
    make(path, migrated_sqlite)
    before = _kept(path)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(ConfigurationError, match=said) as refused:
        use(database)
    database.dispose()
    assert str(path) in str(refused.value)
    assert "QANVAS_DATABASE_URL" in str(refused.value)
    assert _kept(path) == before


def test_a_folder_that_cannot_be_made_for_the_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot make the folder .*/file/data .*QANVAS_DATA"):
        Database(f"sqlite:///{tmp_path}/file/data/qanvas.db")


@pytest.mark.parametrize("url", ["nothing like it", "postgresql://me:se/cret@host:port/x"])
def test_an_url_that_is_none_is_refused_without_the_password_in_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected postgresql://user") as refused:
        Database(url)
    assert "cret" not in str(refused.value)


def test_pages_that_break_while_it_is_used_are_an_outage_and_no_bug(
    tmp_path: Path, migrated_sqlite: Path
) -> None:
    path = tmp_path / "qanvas.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    database = Database(f"sqlite:///{path}")
    database.check_migrated()
    database.dispose()
    with path.open("r+b") as file:  # all but the header
        file.seek(100)
        file.write(b"\xa5" * (path.stat().st_size - 100))
    with pytest.raises(Unavailable, match="the database cannot be used") as broken, database.read() as reader:
        reader.execute(sa.text("SELECT * FROM jobs"))
    assert str(path) not in broken.value.public
    with pytest.raises(Unavailable), database.write() as writer:
        writer.execute(sa.text("DELETE FROM jobs"))
    path.write_text("no database at all" * 1000)
    database.dispose()
    with pytest.raises(Unavailable), database.write() as writer:
        writer.execute(sa.text("DELETE FROM jobs"))


def test_a_server_without_that_database_tells_which_and_the_cure(postgres: Postgres) -> None:
    with pytest.raises(ConfigurationError, match=r"/nowhere cannot be used: .*; check QANVAS_DATABASE_URL"):
        Database(postgres.url("nowhere")).migrate()


def test_a_server_that_is_away_stays_an_outage() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        Database("postgresql://nobody@127.0.0.1:1/x").migrate()


def test_a_user_without_rights_is_told_so_at_start_and_is_an_outage_later(
    postgres: Postgres, databases: Databases
) -> None:
    url = databases.borrow()
    postgres.execute("CREATE ROLE guest LOGIN")
    try:
        guest = Database(str(sa.make_url(url).set(username="guest")))
        with pytest.raises(ConfigurationError, match=r"permission denied.*its user may create"):
            guest.check_migrated()
        with pytest.raises(Unavailable, match="cannot be used"), guest.read() as reader:
            reader.execute(sa.text("SELECT * FROM jobs"))
        guest.dispose()
    finally:
        postgres.execute("DROP ROLE guest")
        databases.give_back(url)


def test_a_server_database_of_another_program_is_refused(
    postgres: Postgres,
) -> None:
    url = postgres.create()
    database = Database(url)
    try:
        with database.write() as connection:
            connection.execute(sa.text("CREATE TABLE recipes (name text)"))
        with pytest.raises(ConfigurationError, match=r"belongs to another program: .*\(recipes\)"):
            database.migrate()
        with database.write() as connection:
            connection.execute(sa.text("DROP TABLE recipes"))
        database.migrate()
        with database.write() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(ConfigurationError, match="a later version of Qanvas"):
            database.check_migrated()
    finally:
        database.dispose()
        postgres.drop(url)
