"""A tenant with a limit of running jobs beside one without, on a real worker."""

from __future__ import annotations

from itertools import pairwise

import pytest

from shared.aftermath import Aftermath
from shared.jobs.leases import Leases
from shared.jobs.states import Status
from shared.jobs.tenants import Tenants
from tests.servers import wait_until
from tests.worker.conftest import Shop
from worker.checkpoints import Checkpoints
from worker.results import Results
from worker.upkeep import Upkeep


@pytest.mark.slow
def test_a_tenant_runs_one_at_a_time_while_another_goes_on_and_nothing_stalls(shop: Shop) -> None:
    """Upkeep has its first round and no other: each job of the tenant starts because the one before ended."""
    Tenants(shop.database, shop.settings).set("ann", {"running": 1})
    shop.worker(slots=4, upkeep_seconds=3600.0, lease_seconds=60.0)
    ann = [shop.new(tenant="ann", steps=2, step_seconds=0.1) for _ in range(5)]
    bob = [shop.new(tenant="bob", steps=2, step_seconds=0.1) for _ in range(8)]
    ended = shop.wait_all(shop.submit([*ann, *bob]))
    assert {job.status for job in ended} == {Status.SUCCEEDED}
    times = sorted((job.started_at, job.finished_at) for job in ended if job.tenant == "ann")
    for (_, finished), (started, _) in pairwise(times):
        assert started is not None and finished is not None and started >= finished
    beside = [
        job
        for job in ended
        if job.tenant == "bob" and any(a < job.finished_at and job.started_at < b for a, b in times)
    ]
    assert beside, "the other tenant ran at the same time"


def test_upkeep_sends_no_tickets_for_what_is_set_aside_and_one_for_each_job_it_lets_in(shop: Shop) -> None:
    tenants = Tenants(shop.database, shop.settings)
    tenants.set("ann", {"running": 1})
    leases = Leases(shop.database, 60.0, most=tenants.most_running)
    upkeep = Upkeep(
        worker_id="wrk_1",
        every=60.0,
        lease_seconds=60.0,
        leases=leases,
        jobs=shop.jobs,
        tickets=shop.tickets,
        events=shop.events,
        aftermath=Aftermath(shop.database, shop.events, shop.tickets, tenants.most_running),
        results=Results(shop.storage),
        checkpoints=Checkpoints(shop.storage),
    )
    shop.submit([shop.new(tenant="ann") for _ in range(5)], tickets=False)
    assert len(leases.claim("wrk_2", "default", limit=5)) == 1
    for _ in range(3):  # what is missing is sent again by the second round that finds it missing
        upkeep.round()
    tenants.set("ann", {"running": 3})
    upkeep.round()
    wait_until(lambda: shop.tickets.waiting("default") == 2, what="a ticket for each of the two that may run")
    upkeep.round()
    upkeep.round()
    assert shop.tickets.waiting("default") == 2
