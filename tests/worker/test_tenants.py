"""A tenant with a limit of running jobs beside one without, on a real worker."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from shared.accounts.tenants import Tenants
from shared.db.tables import jobs, status_in
from shared.jobs.completion import CompletionHandler
from shared.jobs.leases import Leases
from shared.states import Status
from tests.servers import wait_until
from tests.worker.conftest import Shop, worker_context
from worker.services.maintenance import Maintenance


@pytest.mark.slow
def test_a_tenant_runs_one_at_a_time_while_another_goes_on_and_nothing_stalls(shop: Shop) -> None:
    """Upkeep has its first round and no other: each job of the tenant starts because the one before ended."""
    Tenants(shop.database, shop.settings).set("ann", {"running": 1})
    for _ in range(2 if shop.database.is_server else 1):
        shop.worker(slots=3, upkeep_seconds=3600.0, lease_seconds=60.0)
    ann = [shop.new(tenant="ann", steps=2, step_seconds=0.1) for _ in range(5)]
    bob = [shop.new(tenant="bob", steps=2, step_seconds=0.1) for _ in range(8)]
    ids = shop.submit([*ann, *bob])
    together: set[tuple[int, int]] = set()

    def over() -> bool:
        """Note how many jobs of ann and of bob run at this moment."""
        page = [job for tenant in ("ann", "bob") for job in shop.jobs.list(tenant).items]
        with shop.database.read() as connection:
            query = sa.select(jobs.c.tenant).where(status_in(Status.RUNNING))
            running = connection.execute(query).scalars().all()
        together.add((running.count("ann"), running.count("bob")))
        return all(job.is_terminal for job in page)

    wait_until(over, 120, what="all jobs to end")
    assert {shop.jobs.get(job_id).status for job_id in ids} == {Status.SUCCEEDED}
    assert max(of_ann for of_ann, _ in together) == 1
    assert any(of_ann and of_bob for of_ann, of_bob in together), "the other tenant runs at the same time"


def test_upkeep_sends_no_tickets_for_parked_jobs_and_one_for_each_that_it_unparks(shop: Shop) -> None:
    tenants = Tenants(shop.database, shop.settings)
    tenants.set("ann", {"running": 1})
    leases = Leases(shop.database, 60.0, running_limit=tenants.running_limit)
    completion = CompletionHandler(shop.database, shop.events, shop.tickets, tenants.running_limit)
    context = worker_context(
        shop, "wrk_1", leases=leases, completion=completion, upkeep_seconds=60.0, lease_seconds=60.0
    )
    maintenance = Maintenance(context)
    shop.submit([shop.new(tenant="ann") for _ in range(5)], tickets=False)
    assert len(leases.claim("wrk_2", "default", limit=5)) == 1
    for _ in range(3):  # what is missing is sent again by the second round that finds it missing
        maintenance.run_once()
    tenants.set("ann", {"running": 3})
    maintenance.run_once()
    wait_until(lambda: shop.tickets.waiting("default") == 2, what="a ticket for each of the two that may run")
    maintenance.run_once()
    maintenance.run_once()
    assert shop.tickets.waiting("default") == 2
