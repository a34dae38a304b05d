"""What a PostgreSQL must not forget when it is killed: a claim, which a worker acts upon at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shared.db.engine import Database
from shared.errors import Unavailable
from shared.jobs.leases import Leases
from shared.jobs.store import JobStore
from shared.states import Status
from tests.jobs.factory import submit
from tests.servers import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Postgres]:
    server = Postgres(tmp_path).start()
    yield server
    server.stop()


def test_an_attempt_is_given_to_one_worker_though_the_server_crashes_right_after(server: Postgres) -> None:
    database = Database(server.create())
    database.migrate()
    store, leases = JobStore(database), Leases(database, lease_seconds=600)
    for _ in range(4):
        submit(store)
        [claimed] = leases.claim("wrk_1", "default")
        server.kill()
        server.start()
        with suppress(Unavailable):  # a connection that was used a moment ago is found out by using it
            store.get(claimed.id)
        again = leases.claim("wrk_2", "default")
        assert again == [], f"attempt {again[0].attempt} of {again[0].id} belongs to two workers"
        assert store.get(claimed.id).status is Status.RUNNING
    database.dispose()
