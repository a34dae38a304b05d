"""The migrations make the tables that the code names."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from shared.database import Database
from shared.errors import ConfigurationError, Unavailable
from shared.jobs.tables import metadata


def test_the_migrated_database_has_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_migrating_again_does_nothing(database: Database) -> None:
    database.migrate()
    database.check_migrated()


def test_a_database_without_tables_tells_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="qanvas migrate"):
        Database(f"sqlite:///{tmp_path / 'new.db'}").check_migrated()


def test_an_unknown_kind_of_database_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="sqlite:/// or postgresql://"):
        Database("mysql://localhost/x")


def test_a_database_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"the database does not answer: .*127\.0\.0\.1") as away:
        Database("postgresql://nobody@127.0.0.1:1/x").check_migrated()
    assert away.value.public == "the database does not answer; the server's log says why"
