"""Webhooks as clients ask for them, look at them, and send them again."""

from __future__ import annotations

from typing import Any

import pytest

from api.usecases.services import Services
from shared.webhooks.receivers import SendLimits
from shared.webhooks.signing import new_secret
from tests.api.helpers import Api, Hand, faults, jobs_there

URL = "https://example.com/hook"


def test_a_job_tells_its_webhook_and_shows_what_became_of_it(api: Api, hand: Hand) -> None:
    job = api.submit(webhook={"url": URL, "events": ["job.running", "job.succeeded"]})
    assert "webhook" not in job
    hand.succeed(hand.claim(), b"a picture")
    shown = api.get(f"/v1/jobs/{job['id']}/webhooks")
    assert shown.status_code == 200 and shown.json is not None
    assert [one["type"] for one in shown.json["data"]] == ["job.succeeded", "job.running"]
    assert all(one["status"] == "pending" and one["url"] == URL for one in shown.json["data"])


def test_a_job_without_a_webhook_has_none_to_show(api: Api) -> None:
    assert api.get(f"/v1/jobs/{api.submit()['id']}/webhooks").json == {"data": []}


@pytest.mark.parametrize(
    ("webhook", "pointer", "detail"),
    [
        ({}, "/webhook/url", ""),
        ({"url": "ftp://example.com/"}, "/webhook/url", "http"),
        ({"url": "http://127.0.0.1/"}, "/webhook/url", "not a public address"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "/webhook/url", "not a public address"),
        ({"url": "http://2130706433/"}, "/webhook/url", "plain form"),
        ({"url": "https://u:p@example.com/"}, "/webhook/url", "password"),
        ({"url": URL, "events": ["job.queued"]}, "/webhook/events/0", "job.running"),
        ({"url": URL, "events": []}, "/webhook/events", "1 to 5 items"),
        ({"url": URL, "secret": "secret"}, "/webhook/secret", "whsec_"),
        ({"url": URL, "secret": "whsec_" + "A" * 33}, "/webhook/secret", "24 to 64"),
        ({"url": URL, "token": "x"}, "/webhook/token", "known"),
        ("https://example.com", "/webhook", "object"),
    ],
)
def test_a_bad_webhook_is_refused_with_what_is_allowed(
    api: Api, services: Services, webhook: Any, pointer: str, detail: str
) -> None:
    answer = api.post("/v1/jobs", {"model": "fake", "input": {"prompt": "x"}, "webhook": webhook})
    assert answer.status_code == 422
    assert pointer in faults(answer) and detail in faults(answer)[pointer]
    assert jobs_there(services) == 0


def test_a_bad_webhook_among_many_is_named_by_its_place(api: Api, services: Services) -> None:
    good = {"model": "fake", "input": {"prompt": "x"}}
    answer = api.post("/v1/jobs/bulk", {"jobs": [good, {**good, "webhook": {"url": "http://10.0.0.1/"}}]})
    assert list(faults(answer)) == ["/jobs/1/webhook/url"] and jobs_there(services) == 0


def test_another_webhook_under_the_same_idempotency_key_is_another_request(api: Api) -> None:
    body = {"model": "fake", "input": {"prompt": "x", "seed": 1}}
    headers = {"Idempotency-Key": "once"}
    api.post("/v1/jobs", {**body, "webhook": {"url": URL, "secret": new_secret()}}, headers=headers)
    answer = api.post("/v1/jobs", {**body, "webhook": {"url": URL}}, headers=headers)
    assert answer.status_code == 422


def test_a_replay_makes_an_ended_delivery_pending_again(api: Api, services: Services) -> None:
    job = api.submit(webhook={"url": URL})
    api.post(f"/v1/jobs/{job['id']}/cancel")
    [delivery] = services.outbox.claim(1, {}, SendLimits(1, 1))
    services.outbox.refused(delivery, "gone", status=410)
    answer = api.post(f"/v1/webhooks/{delivery.id}/replay")
    assert answer.status_code == 202 and answer.json is not None
    assert (answer.json["id"], answer.json["status"]) == (delivery.id, "pending")
    assert [one.id for one in services.outbox.claim(1, {}, SendLimits(1, 1))] == [delivery.id]


@pytest.mark.parametrize("id", ["evt_01JZZZZZZZZZZZZZZZZZZZZZZZ", "evt_", "job_1", "..%2F", "x" * 400])
def test_an_unknown_event_cannot_be_replayed(api: Api, id: str) -> None:
    assert api.post(f"/v1/webhooks/{id}/replay").status_code == 404


def test_the_default_secret_stays_the_same_and_is_each_tenants_own(api: Api, services: Services) -> None:
    first = api.get("/v1/webhooks/default/secret")
    assert first.json is not None and first.json["key"].startswith("whsec_")
    assert api.get("/v1/webhooks/default/secret").json == first.json
    _, secret = services.keys.create("other", tenant="other", scopes=["submit"])
    other = api.get("/v1/webhooks/default/secret", headers={"Authorization": f"Bearer {secret}"})
    assert other.json is not None and other.json["key"] != first.json["key"]


def test_a_key_that_may_only_read_gets_no_secret(api: Api, services: Services) -> None:
    _, secret = services.keys.create("reader", scopes=["read"])
    headers = {"Authorization": f"Bearer {secret}"}
    assert api.get("/v1/webhooks/default/secret", headers=headers).status_code == 403


def test_another_tenants_webhooks_do_not_exist(api: Api, services: Services) -> None:
    job = api.submit(webhook={"url": URL})
    api.post(f"/v1/jobs/{job['id']}/cancel")
    [delivery] = services.outbox.of_job(job["id"], limit=1)
    _, secret = services.keys.create("other", tenant="other")
    headers = {"Authorization": f"Bearer {secret}"}
    assert api.get(f"/v1/jobs/{job['id']}/webhooks", headers=headers).status_code == 404
    assert api.post(f"/v1/webhooks/{delivery.id}/replay", headers=headers).status_code == 404


def test_deleting_a_job_forgets_what_was_delivered_and_still_delivers_the_rest(
    api: Api, services: Services
) -> None:
    job = api.submit(webhook={"url": URL, "events": ["job.canceled"]})
    api.post(f"/v1/jobs/{job['id']}/cancel")
    assert api.delete(f"/v1/jobs/{job['id']}").status_code == 204
    [delivery] = services.outbox.claim(1, {}, SendLimits(1, 1))
    services.outbox.delivered(delivery, 200)

    job = api.submit(webhook={"url": URL})
    api.post(f"/v1/jobs/{job['id']}/cancel")
    [delivery] = services.outbox.claim(1, {}, SendLimits(1, 1))
    services.outbox.delivered(delivery, 200)
    api.delete(f"/v1/jobs/{job['id']}")
    assert services.outbox.of_job(job["id"], limit=1) == []
