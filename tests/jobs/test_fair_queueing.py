"""Fair shares between tenants, on every database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, combinations, count

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shared.accounts.tenants import Tenants
from shared.db.engine import Database
from shared.db.tables import jobs, tenants
from shared.jobs.entities import Submitted
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.store import JobStore
from shared.settings import Settings
from tests.jobs.factory import new_job, submit

LEASE = 30.0
#: each example of a property has a queue of its own in the one database
_SHARED = [HealthCheck.function_scoped_fixture]
#: a failure is told as it was found: making it smaller takes longer than a test may
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
_queues = (f"queue-{number}" for number in count())


def claimed_tenants(leases: Leases, queue: str, most: int = 10_000) -> list[str]:
    """Whose jobs are claimed, in order."""
    tenants: list[str] = []
    while len(tenants) < most and (jobs := leases.claim("wrk_1", queue, limit=min(20, most - len(tenants)))):
        tenants += [job.tenant for job in jobs]
    return tenants


def queue_up(store: JobStore, queue: str, tenants: Sequence[str], **changes: object) -> None:
    store.submit([new_job(tenant=tenant, queue=queue, **changes) for tenant in tenants])


def weigh(database: Database, weights: Mapping[str, float]) -> None:
    """Give tenants these weights, and nobody else one."""
    rows = [{"name": tenant, "weight": weight} for tenant, weight in weights.items()]
    with database.write() as connection:
        connection.execute(sa.delete(tenants))
        connection.execute(sa.insert(tenants), rows)


weights = st.dictionaries(
    st.sampled_from("abcd"), st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.0]), min_size=2, max_size=4
)


@settings(max_examples=6, deadline=None, phases=_PHASES, suppress_health_check=_SHARED)
@given(weights=weights, data=st.data())
def test_shares_converge_to_the_weights_whatever_the_order_of_submission(
    database: Database, weights: dict[str, float], data: st.DataObject
) -> None:
    """Theorem 1 of Goyal et al.: while two tenants both wait, what they get for their weight never differs by
    more than one job of each."""
    store, leases, queue = JobStore(database), Leases(database, LEASE), next(_queues)
    weigh(database, weights)
    submitted = data.draw(st.permutations([tenant for tenant in weights for _ in range(12)]))
    for start in range(0, len(submitted), 7):  # as group commit does: some jobs at a time
        queue_up(store, queue, submitted[start : start + 7])
    order = claimed_tenants(leases, queue)
    assert Counter(order) == Counter(submitted)
    for one, other in combinations(weights, 2):
        served = {one: 1 / weights[one], other: -1 / weights[other]}
        both_wait = order[: min(_last(order, one), _last(order, other)) + 1]
        lead = [0.0, *accumulate(served.get(tenant, 0.0) for tenant in both_wait)]
        assert max(lead) - min(lead) <= 1 / weights[one] + 1 / weights[other] + 1e-9


def _last(order: Sequence[str], tenant: str) -> int:
    return len(order) - 1 - order[::-1].index(tenant)


@settings(max_examples=6, deadline=None, phases=_PHASES, suppress_health_check=_SHARED)
@given(weights=weights, steps=st.lists(st.sampled_from(["a", "b", "c", "d", ""]), min_size=10, max_size=30))
def test_nobody_starves_whoever_comes_and_goes(
    database: Database, weights: dict[str, float], steps: list[str]
) -> None:
    """Each step submits a job of a tenant, or claims one. A job waits for its tenant's earlier jobs, and
    beside each of them for a bounded number of each other tenant's."""
    store, leases, queue = JobStore(database), Leases(database, LEASE), next(_queues)
    weigh(database, weights)
    weight = {tenant: weights.get(tenant, 1.0) for tenant in "abcd"}
    claims, promised = 0, {}
    waiting: Counter[str] = Counter()
    for step in [*steps, *[""] * len(steps)]:
        if not step:
            for job in leases.claim("wrk_1", queue):
                claims += 1
                assert claims <= promised[job.id]
                waiting[job.tenant] -= 1
            continue
        job = submit(store, tenant=step, queue=queue)
        waiting[step] += 1
        # its tag is at most this far ahead of the virtual time, and others have so many jobs up to there
        lag = waiting[step] / weight[step]
        others = sum(int(lag * w) + 2 for tenant, w in weight.items() if tenant != step)
        promised[job.id] = claims + waiting[step] + others
    assert not +waiting


@pytest.mark.slow
def test_ten_thousand_jobs_of_one_tenant_do_not_delay_anothers_first(database: Database) -> None:
    store, leases = JobStore(database), Leases(database, LEASE)
    for _ in range(10):
        queue_up(store, "default", ["flood"] * 1000)
    assert claimed_tenants(leases, "default", 20) == ["flood"] * 20
    queue_up(store, "default", ["late"] * 3)
    assert claimed_tenants(leases, "default", 6).count("late") == 3


def test_a_tenant_that_was_idle_has_saved_up_nothing(database: Database) -> None:
    store, leases = JobStore(database), Leases(database, LEASE)
    queue_up(store, "default", ["busy"] * 40)
    claimed_tenants(leases, "default", 30)
    queue_up(store, "default", ["idle"] * 10)
    order = claimed_tenants(leases, "default")
    assert abs(order[:10].count("idle") - order[:10].count("busy")) <= 2


def test_a_tenant_that_was_alone_is_not_punished_for_it(database: Database) -> None:
    store, leases = JobStore(database), Leases(database, LEASE)
    queue_up(store, "default", ["alone"] * 30)
    claimed_tenants(leases, "default")
    queue_up(store, "default", ["new", "alone"] * 10)
    order = claimed_tenants(leases, "default")
    assert abs(order[:10].count("new") - order[:10].count("alone")) <= 2


def test_weights_share_a_queue_in_their_proportion(database: Database) -> None:
    store, leases = JobStore(database), Leases(database, LEASE)
    weigh(database, {"acme": 3.0})
    queue_up(store, "default", ["acme", "beta"] * 30)
    assert Counter(claimed_tenants(leases, "default", 40)) == {"acme": 30, "beta": 10}


def test_a_changed_weight_holds_for_what_is_queued_from_then_on(
    database: Database,
) -> None:
    store, leases, tenants = (
        JobStore(database),
        Leases(database, LEASE),
        Tenants(database, Settings.from_env({})),
    )
    queue_up(store, "default", ["acme", "beta"] * 4)
    tenants.set("acme", {"weight": 3.0})
    queue_up(store, "default", ["acme", "beta"] * 12)
    order = claimed_tenants(leases, "default")
    assert order[:8].count("acme") == 4
    assert order[8:24].count("acme") == 12
    tenants.reset("acme")
    queue_up(store, "default", ["acme", "beta"] * 4)
    assert abs(claimed_tenants(leases, "default")[:6].count("acme") - 3) <= 1


def test_priority_goes_before_shares_and_age_decides_between_equals(database: Database) -> None:
    store, leases = JobStore(database), Leases(database, LEASE)
    queue_up(store, "default", ["a", "b", "c"], priority=3)
    queue_up(store, "default", ["a", "a"], priority=9)
    assert claimed_tenants(leases, "default") == ["a", "a", "a", "b", "c"]


def test_jobs_scheduled_for_one_moment_share_as_if_submitted_then(database: Database, reaper: Reaper) -> None:
    store, leases = JobStore(database), Leases(database, LEASE)
    now = submit(store, queue="other").created_at
    queue_up(store, "default", ["planner"] * 6, run_at=now + 3600)
    queue_up(store, "default", ["busy"] * 20)
    claimed_tenants(leases, "default", 10)
    with database.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.tenant == "planner").values(due_at=now))
    assert len(reaper.wake_due()) == 6
    order = claimed_tenants(leases, "default")
    assert abs(order[:10].count("planner") - order[:10].count("busy")) <= 2


def test_a_job_that_runs_again_keeps_its_place(database: Database, reaper: Reaper) -> None:
    store, leases = JobStore(database), Leases(database, -1)
    first = submit(store)
    queue_up(store, "default", ["default"] * 3)
    leases.claim("wrk_1", "default")
    reaper.reap()
    assert leases.claim("wrk_2", "default")[0].id == first.id


def test_a_replayed_submission_costs_its_tenant_nothing(database: Database) -> None:
    store, leases = JobStore(database), Leases(database, LEASE)
    for _ in range(10):
        submit(store, tenant="again", idempotency_key="k", fingerprint="f")
    queue_up(store, "default", ["again", "other", "other", "other"])
    assert claimed_tenants(leases, "default")[:3] == ["again", "other", "again"]


def test_two_processes_that_queue_at_once_give_no_place_twice(database: Database) -> None:
    stores = [JobStore(Database(str(database.url.render_as_string(hide_password=False)))) for _ in range(2)]
    tags = []
    for store in stores * 3:
        answers = store.submit([new_job(priority=priority) for priority in (5, 1, 5)])
        tags += [(one.job.priority, one.job.tag) for one in answers if isinstance(one, Submitted)]
    assert len(set(tags)) == 18
    for store in stores:
        store._database.dispose()
