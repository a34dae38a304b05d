"""The tables' revision: read it, refuse what is not ours or is too new, and upgrade the rest.

A database of another program, of a newer version, or a file that is no database is left as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from shared.errors import ConfigurationError, Unavailable

#: the scripts that change the tables
MIGRATIONS = Path(__file__).parent / "migrations"
#: where Alembic keeps the revision
_VERSIONS = "alembic_version"
#: tables of the current schema that no extension brought
_POSTGRESQL_TABLES = sa.text(
    "SELECT relname FROM pg_class"
    " WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace"
    " AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')"
)
_ELSEWHERE = "name another database in QANVAS_DATABASE_URL, or another folder in QANVAS_DATA"
#: by SQLite's primary error code: what is wrong, and the cure
_SQLITE_FAULTS = {
    sqlite3.SQLITE_NOTADB: ("is no SQLite database, or is encrypted", f"move it away, or {_ELSEWHERE}"),
    sqlite3.SQLITE_CORRUPT: (
        "is a damaged SQLite database",
        f"restore it from a backup, save what `sqlite3 FILE .recover` finds, or {_ELSEWHERE}",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "cannot be opened as a file",
        f"check that it is a file which this user may read and write, or {_ELSEWHERE}",
    ),
    sqlite3.SQLITE_READONLY: (
        "cannot be written",
        f"check its owner and permissions, and that its disk is not mounted read-only, or {_ELSEWHERE}",
    ),
    sqlite3.SQLITE_PERM: (
        "may not be used by this user",
        f"check its owner and permissions, or {_ELSEWHERE}",
    ),
    sqlite3.SQLITE_FULL: ("has no room on its disk", f"free some space, or {_ELSEWHERE}"),
    sqlite3.SQLITE_IOERR: ("cannot be read or written", f"check its disk and file system, or {_ELSEWHERE}"),
}
#: what a server says to a client that it could serve in a moment; all else it refuses for good
_SOON = ("starting up", "shutting down", "recovery mode", "too many", "remaining connection slots")


def is_foreign(tables: Collection[str]) -> bool:
    """Whether these are the tables of another program, by their names."""
    return bool(tables) and _VERSIONS not in tables


def upgrade(connection: Connection) -> None:
    """Bring the tables to this version's revision. Raises ConfigurationError where they are not ours."""
    from alembic import command

    _known_revision(connection)
    command.upgrade(config(connection), "head")


def check(connection: Connection) -> None:
    """Raises ConfigurationError when the tables are not those that this version needs."""
    found, wanted = _known_revision(connection), _scripts(connection).get_current_head()
    if found != wanted:
        raise ConfigurationError(
            f"the database is at revision {found or 'none'}, this version needs {wanted}; run: qanvas migrate"
        )


def is_older(connection: Connection) -> bool:
    """Whether the tables are an earlier version's. Raises ConfigurationError where they are not ours."""
    found = _known_revision(connection)
    return found not in (None, _scripts(connection).get_current_head())


@contextmanager
def usable(url: sa.URL) -> Iterator[None]:
    """Around the first use of a database: what its operator must mend is a ConfigurationError.

    What passes by itself, as a server that is just starting, stays Unavailable."""
    try:
        yield
    except (Unavailable, DBAPIError) as error:
        refused = _refused(url, driver_error(error))
        if refused is None:
            raise
        raise ConfigurationError(refused) from error


def driver_error(error: BaseException) -> BaseException:
    """What the driver raised, below SQLAlchemy's error and ours."""
    while (cause := getattr(error, "orig", None) or error.__cause__) is not None:
        error = cause
    return error


def _refused(url: sa.URL, error: BaseException) -> str | None:
    """The message for an operator; None for what may pass by itself."""
    said = str(error).strip().partition("\n")[0]
    if isinstance(error, sqlite3.Error):
        fault = _SQLITE_FAULTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if fault is None:
            return None
        what, cure = fault
        return f"{url.database} {what} ({said}); {cure}. Nothing was changed"
    answered = getattr(error, "sqlstate", None) is not None or "FATAL" in said
    if url.get_backend_name() == "sqlite" or not answered or any(word in said for word in _SOON):
        return None
    return (
        f"{url.render_as_string(hide_password=True)} cannot be used: {said}; check QANVAS_DATABASE_URL, "
        "and that the database exists and its user may create and change tables in it"
    )


def _known_revision(connection: Connection) -> str | None:
    """The revision, None of an empty database. Raises ConfigurationError for one that we do not know."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script.revision import ResolutionError
    from alembic.util import CommandError

    name, found = connection.engine.url.database, None
    try:
        found = MigrationContext.configure(connection).get_current_revision()
        if found is not None:
            _scripts(connection).get_revision(found)
    except (CommandError, ResolutionError) as error:
        raise ConfigurationError(
            f"the database {name} is at revision {found or error}, which this version does not know: a later "
            "version of Qanvas has migrated it, or it is another program's. Run that version or a later one, "
            f"restore the backup from before, or {_ELSEWHERE}. Nothing was changed"
        ) from None
    if found is None and (foreign := _tables(connection) - {_VERSIONS}):
        some = ", ".join(sorted(foreign)[:3])
        raise ConfigurationError(
            f"the database {name} belongs to another program: it has tables ({some}) and no revision of "
            f"Qanvas; {_ELSEWHERE}. Nothing was changed"
        )
    return found


def _tables(connection: Connection) -> set[str]:
    if connection.dialect.name == "postgresql":
        return set(connection.scalars(_POSTGRESQL_TABLES))
    return set(sa.inspect(connection).get_table_names())


def _scripts(connection: Connection) -> Any:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(config(connection))


def config(connection: Connection) -> Any:
    """What Alembic's commands take to work on this connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config
