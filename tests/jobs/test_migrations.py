"""The migrations make the tables that the code names."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from shared.accounts.keys import KeyStore
from shared.db.engine import Database
from shared.db.tables import metadata
from shared.errors import ConfigurationError, Unavailable

ROOT = Path(__file__).parents[2]


def test_the_migrated_database_has_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_migrating_again_does_nothing(database: Database) -> None:
    database.migrate()
    database.check_migrated()


@pytest.mark.parametrize("keys", [0, 1])
def test_a_database_whose_keys_were_all_revoked_goes_on_asking_for_one(tmp_path: Path, keys: int) -> None:
    path = tmp_path / "old.db"
    _at_revision(path, "0015")
    database = Database(f"sqlite:///{path}")
    with database.write() as connection:
        for number in range(keys):
            connection.exec_driver_sql(
                "INSERT INTO keys (id, tenant, name, hash, scopes, created_at, revoked_at) "
                f"VALUES ('key_{number}', 'default', 'old', 'hash', '[]', 1.0, 2.0)"
            )
    database.migrate()
    assert KeyStore(database).is_keyed() == bool(keys)
    database.dispose()


def _at_revision(path: Path, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "shared/db/migrations"))
    with sa.create_engine(f"sqlite:///{path}").begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


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
