"""Limits of tenants, and the places that a transaction takes, on every database."""

from __future__ import annotations

import threading

import pytest

from shared.accounts.tenants import Limits, Tenants
from shared.db.engine import Database
from shared.errors import InvalidInput, NotFound, OverLimit
from shared.files.store import FileStore
from shared.jobs.entities import Submitted
from shared.jobs.store import JobStore
from shared.settings import Settings
from tests.jobs.factory import new_job, submit
from tests.jobs.test_files_and_keys import new_file


def test_a_tenants_own_limits_lie_over_those_of_the_settings(database: Database, settings: Settings) -> None:
    tenants = Tenants(database, settings.with_(limit_requests=60, limit_queued=10))
    assert tenants.limits("ann") == Limits(requests=60, queued=10)
    tenants.set("ann", {"queued": 0, "storage_bytes": 10**12})
    tenants.set("ann", {"submissions": 2})
    assert tenants.limits("ann") == Limits(requests=60, submissions=2, queued=0, storage_bytes=10**12)
    assert tenants.limits("bob") == Limits(requests=60, queued=10)
    assert [name for name, _ in tenants.list()] == ["ann"]
    tenants.reset("ann")
    assert tenants.limits("ann") == tenants.limits("bob")
    with pytest.raises(NotFound):
        tenants.reset("ann")


@pytest.mark.parametrize(
    ("tenant", "changes"),
    [
        ("", {}),
        ("a b", {}),
        ("ann", {"queued": -1}),
        ("ann", {"running": 2**31}),
        ("ann", {"weight": 0.0}),
        ("ann", {"weight": float("nan")}),
        ("ann", {"wait": 1}),
    ],
)
def test_what_is_no_limit_is_refused(
    database: Database, settings: Settings, tenant: str, changes: dict[str, float]
) -> None:
    with pytest.raises(InvalidInput):
        Tenants(database, settings).set(tenant, changes)


def test_a_tenants_storage_is_its_files_and_its_outputs(database: Database, settings: Settings) -> None:
    FileStore(database).add(new_file("ann"))
    FileStore(database).add(new_file("bob"))
    assert Tenants(database, settings).stored_bytes("ann") == 3


def test_of_jobs_committed_together_those_beyond_the_limit_are_not_made(database: Database) -> None:
    store = JobStore(database)
    batch = [new_job(tenant=tenant) for tenant in ("ann", "bob", "ann", "ann", "bob")]
    results = store.submit(batch, limits={"ann": 2})
    assert [type(result) for result in results] == [Submitted, Submitted, Submitted, OverLimit, Submitted]
    assert store.counts(tenant="ann") == {"queued": 2}
    with pytest.raises(OverLimit, match="room for 0 more, not 2"):
        store.submit([new_job(tenant="ann")] * 2, limits={"ann": 2}, together=True)
    assert store.counts() == {"queued": 4}


def test_processes_that_submit_at_once_do_not_pass_the_limit_together(database: Database) -> None:
    store = JobStore(database)
    submit(store, tenant="ann")
    start = threading.Barrier(8)

    def add() -> None:
        start.wait()
        for _ in range(3):
            store.submit([new_job(tenant="ann"), new_job(tenant="bob")], limits={"ann": 10, "bob": 10})

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.counts(tenant="ann") == store.counts(tenant="bob") == {"queued": 10}
