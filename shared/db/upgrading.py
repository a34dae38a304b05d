"""Before the tables are changed: no worker may be using them."""

from __future__ import annotations

import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import workers
from shared.errors import ConfigurationError

#: columns that the table has had since its first revision: it may be of any version
_ALIVE = sa.select(workers.c.id, workers.c.host).order_by(workers.c.last_seen.desc())


def refuse_beside_workers(database: Database, alive_within: float) -> None:
    """Raise ConfigurationError when a migration would change the tables while a worker is at work.

    ``alive_within``: seconds within which a worker that runs has given a sign of life. Workers check the
    tables when they start, so that one that goes on running would use tables that it does not know."""
    if not database.has_older_tables():
        return
    with database.read() as connection:
        since = database.now(connection) - alive_within
        alive = connection.execute(_ALIVE.where(workers.c.last_seen > since)).all()
    if alive:
        named = ", ".join(f"{one.id} on {one.host}" for one in alive[:3])
        more = f" and {len(alive) - 3} more" if len(alive) > 3 else ""
        raise ConfigurationError(
            f"a worker of the earlier version is running: {named}{more}. Stop the API and all workers, then "
            f"run qanvas migrate again; one that was killed counts as running for {alive_within:g} s"
        )
