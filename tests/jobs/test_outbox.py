"""Webhooks as rows: when they are written, who gets them, and when they are tried again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import deliveries
from shared.errors import InvalidInput, NotFound
from shared.jobs.entities import Failed, Finish, Job, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.store import JobStore
from shared.webhooks import signing
from shared.webhooks.outbox import Delivery, Outbox
from shared.webhooks.receivers import Receiver, SendLimits
from shared.webhooks.subscription import ENDINGS, EVENTS, Webhook
from tests.jobs.factory import new_output, submit
from tests.jobs.plans import analyze, plan, sent

ALL = tuple(EVENTS.values())


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


def heard(store: JobStore, *events: str, url: str = "https://example.com/hook", **changes: Any) -> Job:
    return submit(store, webhook=Webhook(url=url, events=events or ENDINGS, secret=None), **changes)


def run(leases: Leases, ending: Any) -> Job:
    [job] = leases.claim("wrk_1", "default")
    [ended] = leases.finish([Finish(job.id, job.attempt, ending)])
    assert isinstance(ended, Job)
    return ended


def types(outbox: Outbox, job_id: str) -> list[str]:
    return [one.type for one in reversed(outbox.of_job(job_id, limit=100))]


def make_due(database: Database, **values: Any) -> None:
    with database.write() as connection:
        connection.execute(sa.update(deliveries).values(next_at=0, **values))


def claim(
    outbox: Outbox, limit: int = 10, busy: Mapping[Receiver, int] | None = None, per_tenant: int = 12
) -> list[Delivery]:
    return outbox.claim(limit, busy or {}, SendLimits(per_host=4, per_tenant=per_tenant))


def test_a_job_without_a_webhook_writes_nothing(store: JobStore, leases: Leases, outbox: Outbox) -> None:
    job = submit(store)
    run(leases, Succeeded())
    assert types(outbox, job.id) == []


def test_by_default_a_webhook_tells_of_the_end_alone(store: JobStore, leases: Leases, outbox: Outbox) -> None:
    job = heard(store)
    run(leases, Succeeded())
    assert types(outbox, job.id) == ["job.succeeded"]


def test_every_attempt_is_told_where_that_is_wanted(store: JobStore, leases: Leases, outbox: Outbox) -> None:
    job = heard(store, *ALL)
    run(leases, Failed(type="internal", message="once more", retryable=True))
    with leases._database.write() as connection:  # whatever makes a retry wait, not here
        connection.execute(sa.text("UPDATE jobs SET status = 'queued'"))
    run(leases, Failed(type="internal", message="broken"))
    assert types(outbox, job.id) == ["job.running", "job.running", "job.failed"]


def test_a_cancel_an_expiry_and_a_lost_worker_are_told_too(
    database: Database, store: JobStore, outbox: Outbox, reaper: Reaper
) -> None:
    canceled, expired = heard(store), heard(store, expires_in=0.0)
    store.cancel(canceled.id)
    leases = Leases(database, -1)
    reaper.expire()
    lost = heard(store, max_attempts=1)
    leases.claim("wrk_1", "default")
    reaper.reap()
    assert [types(outbox, job.id) for job in (canceled, expired, lost)] == [
        ["job.canceled"],
        ["job.expired"],
        ["job.failed"],
    ]


def test_the_event_holds_the_job_as_it_was_then(store: JobStore, leases: Leases, outbox: Outbox) -> None:
    job = heard(store, *ALL)
    run(leases, Succeeded(outputs=(new_output(),)))
    ended, running = (json.loads(one.body) for one in outbox.of_job(job.id, limit=10, bodies=True))
    assert running["data"]["status"] == "running" and running["data"]["outputs"] == []
    assert ended["type"] == "job.succeeded" and ended["id"].startswith("evt_")
    assert ended["data"]["status"] == "succeeded" and ended["data"]["finished_at"] == ended["created_at"]
    assert [output["url"] for output in ended["data"]["outputs"]] == [
        f"/v1/outputs/{output.id}" for output in store.get(job.id).outputs
    ]
    assert "secret" not in json.dumps(ended) and "example.com" not in json.dumps(ended)


def test_a_step_that_is_rolled_back_tells_nothing(
    store: JobStore, leases: Leases, outbox: Outbox, database: Database
) -> None:
    job = heard(store)
    [claimed] = leases.claim("wrk_1", "default")
    twice = Succeeded(outputs=(new_output(0), new_output(0)))  # two outputs cannot have one index
    with pytest.raises(sa.exc.IntegrityError):
        leases.finish([Finish(job.id, claimed.attempt, twice)])
    assert types(outbox, job.id) == []


def test_a_retried_job_has_the_webhook_of_the_first(store: JobStore, outbox: Outbox) -> None:
    job = heard(store, url="https://example.com/again")
    store.cancel(job.id)
    again = store.retry(job.id)
    store.cancel(again.id)
    assert [one.url for one in outbox.of_job(again.id, limit=10)] == ["https://example.com/again"]


def test_a_delivery_is_taken_once_until_its_lease_runs_out(
    store: JobStore, outbox: Outbox, database: Database
) -> None:
    store.cancel(heard(store).id)
    [first] = claim(outbox)
    assert first.tries == 1 and claim(outbox) == []
    make_due(database)
    [second] = claim(outbox)
    assert (second.id, second.body, second.tries) == (first.id, first.body, 2)
    outbox.delivered(first, 200)  # the sender that was too slow changes nothing
    assert outbox.of_job(first.job_id, limit=1)[0].status == "pending"
    outbox.delivered(second, 204)
    [settled] = outbox.of_job(first.job_id, limit=1)
    assert (settled.status, settled.last_status) == ("delivered", 204)
    make_due(database)
    assert claim(outbox) == []


def test_what_failed_is_tried_after_growing_waits_and_given_up_after_a_day(
    store: JobStore, outbox: Outbox, database: Database
) -> None:
    job = heard(store)
    store.cancel(job.id)
    waits = []
    for _ in range(3):
        [one] = claim(outbox)
        outbox.failed(one, "the receiver answered 500", status=500)
        [failed] = outbox.of_job(job.id, limit=1)
        waits.append(failed.next_at - (one.next_at - 60))  # from when it was claimed
        assert (failed.status, failed.last_status) == ("pending", 500)
        make_due(database)
    assert waits[0] < waits[1] < waits[2]
    make_due(database, give_up_at=1.0)
    [one] = claim(outbox)
    outbox.failed(one, "the receiver answered 500", status=500)
    [dead] = outbox.of_job(job.id, limit=1)
    assert dead.status == "dead" and dead.last_error == "the receiver answered 500"


def test_the_waits_of_one_day_are_growing_and_spread() -> None:
    nominal = [5.0 * 3**n for n in range(7)]
    for tries, wait in enumerate(nominal, 1):
        drawn = [signing.wait_after(tries) for _ in range(50)]
        assert all(0.75 * wait <= one <= 1.25 * wait for one in drawn) and len(set(drawn)) > 1
    assert signing.wait_after(1000) <= 1.25 * 7200


def test_one_host_gets_no_more_than_its_share(store: JobStore, outbox: Outbox, database: Database) -> None:
    for _ in range(10):
        store.cancel(heard(store, url="https://dead.example.com/").id)
    alive = heard(store, url="https://alive.example.com/")
    store.cancel(alive.id)
    taken = claim(outbox, 16)
    assert [one.host for one in taken] == ["dead.example.com"] * 4 + ["alive.example.com"]
    assert claim(outbox, 16, {("default", "dead.example.com"): 4}) == []


def test_a_host_that_does_not_answer_is_asked_once_and_not_by_every_delivery(
    store: JobStore, outbox: Outbox
) -> None:
    jobs = [heard(store) for _ in range(6)]
    for job in jobs:
        store.cancel(job.id)
    [first] = claim(outbox, 1)
    outbox.failed(first, "no answer in time")
    outbox.postpone(first.tenant, first.host, 30)
    assert claim(outbox) == []
    assert all(outbox.of_job(job.id, limit=1)[0].status == "pending" for job in jobs)


def test_what_one_tenant_puts_off_is_not_put_off_for_another(store: JobStore, outbox: Outbox) -> None:
    """Both name one host, which answers only what is another tenant's."""
    for tenant in ("ann", "bob"):
        for _ in range(3):
            store.cancel(heard(store, tenant=tenant).id)
    [first] = claim(outbox, 1)
    outbox.failed(first, "no answer in time")
    outbox.postpone(first.tenant, first.host, 30)
    taken = claim(outbox, 10)
    assert len(taken) == 3 and {one.tenant for one in taken} == {"ann", "bob"} - {first.tenant}


def test_a_flood_of_one_tenant_does_not_delay_anothers(store: JobStore, outbox: Outbox) -> None:
    for number in range(40):
        store.cancel(heard(store, tenant="flood", url=f"https://{number}.example.com/").id)
    for tenant in ("ann", "bob"):
        for _ in range(2):
            store.cancel(heard(store, tenant=tenant).id)
    taken = Counter(one.tenant for one in claim(outbox, 6))
    assert taken == {"flood": 2, "ann": 2, "bob": 2}


def test_one_tenant_leaves_senders_to_others_who_come_later(store: JobStore, outbox: Outbox) -> None:
    for number in range(40):
        store.cancel(heard(store, tenant="flood", url=f"https://{number}.example.com/").id)
    busy = Counter((one.tenant, one.host) for one in claim(outbox, 16))
    assert busy.total() == 12 and claim(outbox, 4, busy) == []
    store.cancel(heard(store, tenant="ann").id)
    assert [one.tenant for one in claim(outbox, 4, busy)] == ["ann"]


def test_a_host_is_the_same_however_it_is_spelled(store: JobStore, outbox: Outbox) -> None:
    spelled = ("example.com", "EXAMPLE.com.", "example.com:443")
    for host in spelled:
        for _ in range(3):
            store.cancel(heard(store, url=f"https://{host}/hook").id)
    assert [one.host for one in claim(outbox, 16)] == ["example.com"] * 4


def test_looking_for_what_is_due_reads_no_more_than_there_are_tenants(
    store: JobStore, outbox: Outbox, database: Database
) -> None:
    store.cancel(heard(store, tenant="ann").id)
    with database.write() as connection:
        row = dict(connection.execute(sa.select(deliveries)).one()._mapping)
        many = [row | {"id": f"evt_{number}", "tenant": "flood", "next_at": number} for number in range(3000)]
        connection.execute(sa.insert(deliveries), many)
    analyze(database)
    with sent(database) as statements:
        assert {one.tenant for one in claim(outbox, 4)} == {"ann", "flood"}
    looks = [plan(database, one) for one in statements if one[0].lstrip().startswith(("WITH", "SELECT"))]
    assert looks and all(look.rows <= 100 for look in looks), looks
    if database.dialect == "sqlite":
        assert all("ix_deliveries_" in look.text and "SCAN deliveries\n" not in look.text for look in looks)


def test_a_replay_delivers_again_under_the_same_id(store: JobStore, outbox: Outbox) -> None:
    job = heard(store)
    store.cancel(job.id)
    [first] = claim(outbox)
    outbox.refused(first, "gone", status=410)
    assert claim(outbox) == []
    outbox.replay(first.id, tenant="default")
    [again] = claim(outbox)
    assert (again.id, again.body, again.tries) == (first.id, first.body, 1)
    with pytest.raises(NotFound):
        outbox.replay(first.id, tenant="another")


def test_old_deliveries_are_forgotten_and_untried_ones_given_up(
    store: JobStore, outbox: Outbox, database: Database
) -> None:
    done, untried = heard(store), heard(store, url="https://dead.example.com/")
    for job in (done, untried):
        store.cancel(job.id)
    [first, _] = claim(outbox)
    outbox.delivered(first, 200)
    make_due(database, give_up_at=1.0)
    assert outbox.prune(1000) == 0
    assert outbox.of_job(untried.id, limit=1)[0].status == "dead"
    assert outbox.prune(-1) == 2


def test_what_is_on_its_way_and_what_was_given_up_is_counted_by_small_indexes(
    store: JobStore, outbox: Outbox, database: Database
) -> None:
    assert outbox.backlog() == {"pending": 0, "dead": 0}
    for job in [heard(store) for _ in range(4)]:
        store.cancel(job.id)
    dead, delivered, *_ = claim(outbox)
    outbox.refused(dead, "gone", status=410)
    outbox.delivered(delivered, 200)
    with database.write() as connection:
        here = sa.select(deliveries).where(deliveries.c.id == delivered.id)
        row = dict(connection.execute(here).one()._mapping)
        connection.execute(sa.insert(deliveries), [row | {"id": f"evt_{number}"} for number in range(3000)])
    analyze(database)
    with sent(database) as statements:
        assert outbox.backlog() == {"pending": 2, "dead": 1}
    plans = [plan(database, statement).text for statement in statements if "count" in statement[0]]
    assert len(plans) == 2 and all("ix_deliveries_" in text for text in plans), plans


def test_a_tenant_has_one_secret_of_its_own(outbox: Outbox, database: Database) -> None:
    first = outbox.secret("one")
    assert first.startswith("whsec_") and len(signing.key_of(first)) == 32
    assert Outbox(database).secret("one") == first != outbox.secret("two")


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw!",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_QUJD",
    ],
)
def test_a_secret_of_another_form_is_refused_with_what_it_must_be(secret: str) -> None:
    with pytest.raises(InvalidInput, match="whsec_ and the base64 of 24 to 64"):
        signing.key_of(secret)
