"""Webhooks on their way to real receivers: kind ones, hanging ones, and dead ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa
from standardwebhooks import Webhook as Verifier

from shared.db.engine import Database
from shared.db.tables import deliveries
from shared.jobs.store import JobStore
from shared.outward import Limits, Outward
from shared.webhooks.outbox import Delivery, Outbox
from shared.webhooks.signing import new_secret
from shared.webhooks.subscription import ENDINGS, Webhook
from tests.jobs.factory import submit
from tests.receivers import Answer, Request, receiving
from tests.servers import Postgres, free_port, wait_until
from tests.worker.conftest import Shop
from worker.services.webhook_delivery import SENDERS, WebhookDelivery


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


@pytest.fixture
def deliverer(outbox: Outbox) -> Iterator[WebhookDelivery]:
    made = WebhookDelivery(outbox, Outward(allow_private=True), Limits(connect=2, read=2, total=4, bytes=0))
    yield made
    made.stop()


def cancel_one(database: Database, url: str, secret: str | None = None) -> str:
    """The id of a job that has ended and whose webhook goes there."""
    store = JobStore(database)
    job = submit(store, webhook=Webhook(url=url, events=ENDINGS, secret=secret))
    store.cancel(job.id)
    return job.id


def deliver(deliverer: WebhookDelivery, outbox: Outbox, job_id: str) -> Delivery:
    """One round, and what it came to."""
    assert deliverer.run_once()
    assert deliverer.wait(60)
    [delivery] = outbox.of_job(job_id, limit=10)
    return delivery


def make_due(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.update(deliveries).values(next_at=0))


@pytest.mark.parametrize("own", [True, False])
def test_the_published_verifier_accepts_a_delivery(
    database: Database, outbox: Outbox, deliverer: WebhookDelivery, own: bool
) -> None:
    secret = new_secret() if own else outbox.secret("default")
    with receiving() as receiver:
        job_id = cancel_one(database, f"{receiver.url}/hook?a=1", secret if own else None)
        assert deliver(deliverer, outbox, job_id).status == "delivered"
        [request] = receiver.requests
    event = Verifier(secret).verify(request.body, dict(request.headers))
    assert (request.method, request.path) == ("POST", "/hook?a=1")
    assert request.headers["content-type"] == "application/json"
    assert event["type"] == "job.canceled" and event["data"]["id"] == job_id
    assert event["id"] == request.headers["webhook-id"]


def test_a_receiver_that_answers_500_gets_the_same_event_again(
    database: Database, outbox: Outbox, deliverer: WebhookDelivery
) -> None:
    secret = new_secret()
    with receiving(lambda number, request: Answer(500 if number == 0 else 204)) as receiver:
        job_id = cancel_one(database, receiver.url, secret)
        failed = deliver(deliverer, outbox, job_id)
        assert (failed.status, failed.last_status) == ("pending", 500)
        make_due(database)
        assert deliver(deliverer, outbox, job_id).status == "delivered"
        first, second = receiver.requests
    assert first.body == second.body and first.headers["webhook-id"] == second.headers["webhook-id"]
    Verifier(secret).verify(second.body, dict(second.headers))


def test_a_redirect_is_not_followed(database: Database, outbox: Outbox, deliverer: WebhookDelivery) -> None:
    with receiving() as private, receiving(lambda n, r: Answer(307, {"Location": private.url})) as receiver:
        delivery = deliver(deliverer, outbox, cancel_one(database, receiver.url))
        assert (delivery.status, delivery.last_status) == ("pending", 307)
        assert "redirects are not followed" in (delivery.last_error or "")
        assert private.requests == []


def test_a_receiver_that_answers_410_gets_no_more(
    database: Database, outbox: Outbox, deliverer: WebhookDelivery
) -> None:
    with receiving(lambda number, request: Answer(410)) as receiver:
        assert deliver(deliverer, outbox, cancel_one(database, receiver.url)).status == "dead"
        make_due(database)
        assert not deliverer.run_once()


def test_a_receiver_may_ask_for_time(database: Database, outbox: Outbox, deliverer: WebhookDelivery) -> None:
    with receiving(lambda number, request: Answer(429, {"Retry-After": "600"})) as receiver:
        delivery = deliver(deliverer, outbox, cancel_one(database, receiver.url))
        assert delivery.next_at - delivery.created_at >= 600


def test_a_private_address_is_refused_when_the_operator_has_not_allowed_it(
    database: Database, outbox: Outbox
) -> None:
    guarded = WebhookDelivery(outbox, Outward(allow_private=False))
    with receiving() as receiver:
        delivery = deliver(guarded, outbox, cancel_one(database, receiver.url))
        assert delivery.status == "pending" and "not a public address" in (delivery.last_error or "")
        assert receiver.requests == []


def test_hanging_receivers_and_a_flood_for_a_dead_host_do_not_hold_up_the_others(
    database: Database, outbox: Outbox, deliverer: WebhookDelivery
) -> None:
    ended = threading.Event()

    def hang(number: int, request: Request) -> Answer:
        ended.wait(60)
        return Answer()

    with receiving(hang) as hanging, receiving() as kind:
        for _ in range(2 * SENDERS):
            cancel_one(database, hanging.url)
            cancel_one(database, f"http://127.0.0.1:{free_port()}/")
        last = cancel_one(database, kind.url)
        deliverer.start()
        try:
            wait_until(lambda: outbox.of_job(last, limit=1)[0].status == "delivered", 60, what="the last one")
        finally:
            ended.set()
    assert json.loads(kind.requests[0].body)["data"]["id"] == last


@pytest.mark.slow
@pytest.mark.chaos
def test_what_a_worker_was_killed_over_another_delivers(shop: Shop) -> None:
    secret, ended = new_secret(), threading.Event()

    def hang_once(number: int, request: Request) -> Answer:
        if number == 0:
            ended.wait(120)
        return Answer()

    with receiving(hang_once) as receiver:
        shop.settings = shop.settings.with_(webhook_allow_private=True)
        first = shop.worker()
        heard = Webhook(url=receiver.url, events=ENDINGS, secret=secret)
        [job_id] = shop.submit([replace(shop.new(steps=1), webhook=heard)])
        receiver.wait_for(1)
        first.kill()
        assert shop.jobs.get(job_id).status == "succeeded"
        make_due(shop.database)  # instead of waiting for the lease
        shop.worker()
        _, request = receiver.wait_for(2)
        ended.set()
        event = Verifier(secret).verify(request.body, dict(request.headers))
        assert event["data"]["id"] == job_id and event["type"] == "job.succeeded"


def test_a_sender_that_was_stopped_sends_nothing_that_another_one_may_have_taken(
    database: Database, outbox: Outbox, deliverer: WebhookDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_for = [0.0]
    monkeypatch.setattr(
        "worker.services.webhook_delivery.awake_seconds", lambda: stopped_for.pop() if stopped_for else 120.0
    )
    with receiving() as receiver:
        job_id = cancel_one(database, receiver.url)
        assert deliver(deliverer, outbox, job_id).status == "pending"
        assert receiver.requests == []
        monkeypatch.undo()
        make_due(database)
        assert deliver(deliverer, outbox, job_id).status == "delivered"
        assert len(receiver.requests) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_event_that_has_arrived_is_not_sent_again_for_a_database_that_takes_no_writes(
    database: Database, outbox: Outbox, deliverer: WebhookDelivery, postgres: Postgres
) -> None:
    def answer(number: int, request: Request) -> Answer:
        postgres.read_only(True)
        threading.Timer(1.5, postgres.read_only, [False]).start()
        return Answer()

    try:
        with receiving(answer) as receiver:
            job_id = cancel_one(database, receiver.url)
            assert deliver(deliverer, outbox, job_id).status == "delivered"
            assert len(receiver.requests) == 1
    finally:
        postgres.read_only(False)
