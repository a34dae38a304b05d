"""How many jobs there are in each status, on every database."""

from __future__ import annotations

from collections import Counter

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import jobs
from shared.jobs.store import JobStore
from shared.states import Status
from tests.jobs import plans
from tests.jobs.factory import new_job, submit

#: status and attempt, and under which status clients see that
SEEN = {
    ("scheduled", 0): "scheduled",
    ("scheduled", 1): "queued",
    ("queued", 0): "queued",
    ("running", 1): "running",
    ("succeeded", 1): "succeeded",
    ("failed", 3): "failed",
    ("canceled", 1): "canceled",
    ("expired", 0): "expired",
}


def fill(database: Database, store: JobStore, each: int = 1) -> Counter[str]:
    """As many jobs of each kind, and ten times as many that succeeded; what clients are to see."""
    rows = [(kind, str(seen)) for kind, seen in SEEN.items() for _ in range(each)]
    rows += [(("succeeded", 1), "succeeded")] * (10 * each)
    row = submit(store, input={"prompt": "a red apple " * 80})  # rows are large beside entries of indexes
    with database.write() as connection:
        known = dict(connection.execute(sa.select(jobs).where(jobs.c.id == row.id)).one()._mapping)
        connection.execute(sa.delete(jobs))
        made = [
            {**known, "id": f"job_{place:06}", "status": status, "attempt": attempt}
            for place, ((status, attempt), _) in enumerate(rows)
        ]
        connection.execute(sa.insert(jobs), made)
    return Counter(seen for _, seen in rows)


def test_every_job_is_counted_once_under_the_status_that_clients_see(
    database: Database, store: JobStore
) -> None:
    assert store.counts() == {}
    expected = fill(database, store)
    assert set(expected) == set(Status)
    assert store.counts() == store.counts(tenant="default") == expected
    store.submit([new_job(tenant="ann")])
    assert store.counts() == expected + Counter({"queued": 1})
    assert store.counts(tenant="ann") == {"queued": 1}


@pytest.mark.parametrize("known", [False, True], ids=["before-analyze", "analyzed"])
def test_counting_all_jobs_reads_indexes_alone_but_for_those_that_are_scheduled(
    database: Database, store: JobStore, known: bool
) -> None:
    fill(database, store, each=150)
    if database.dialect == "postgresql":  # before that, an index cannot tell which of its entries are alive
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM jobs"))
    if known:
        plans.analyze(database)
    with plans.sent(database) as found:
        store.counts()
    [sent] = [sent for sent in found if "count" in sent[0]]
    plan = plans.plan(database, sent)
    alone = "COVERING INDEX" if database.dialect == "sqlite" else "Index Only Scan"
    assert plan.text.count(alone) == 4 and "Seq Scan" not in plan.text, plan.text
    for index in ("ix_jobs_waiting", "ix_jobs_running", "ix_jobs_ended_badly"):
        assert index in plan.text, plan.text
