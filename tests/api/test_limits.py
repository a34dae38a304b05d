"""What keys and tenants may use, and what is said to those who want more."""

from __future__ import annotations

import base64
import io
import logging
import random
from collections.abc import Callable
from typing import Any

import pytest

from api.app import create_app
from api.auth.limits import Rates
from api.usecases.services import Services
from shared.errors import OverLimit
from shared.settings import Settings
from tests.api.helpers import Api, Hand, jobs_there, png
from tests.servers import Valkey, free_port

sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

BODY = {"model": "fake", "input": {"prompt": "x"}}


@pytest.fixture
def app(settings: Settings) -> Any:
    app = create_app(settings.with_(host="0.0.0.0"))
    yield app
    app.extensions["qanvas"].close()


@pytest.fixture
def key(services: Services) -> Callable[..., dict[str, str]]:
    """Headers with a new key of a tenant; ``limits`` are set for the tenant."""

    def make(tenant: str = "acme", **limits: int) -> dict[str, str]:
        _, secret = services.keys.create("test", tenant=tenant, scopes=["submit", "read"])
        if limits:
            services.tenants.set(tenant, limits)
        return {"Authorization": f"Bearer {secret}"}

    return make


def said(answer: Any, name: str, size: int) -> dict[str, Any]:
    """The problem of an answer that says which limit was met, and when to come again."""
    assert answer.status_code == 429, answer.text
    assert 1 <= int(answer.headers["Retry-After"]) <= 61
    assert answer.json["limit"] == {"name": name, "size": size}
    assert answer.json["type"] == "urn:qanvas:problem:over-limit"
    assert str(size) in answer.json["detail"]
    return dict(answer.json)


@sqlite
def test_a_key_may_make_so_many_requests_a_minute_and_each_key_has_its_own(
    api: Api, key: Callable[..., dict[str, str]]
) -> None:
    first, second, other = key(requests=3), key(), key("other")
    for _ in range(3):
        assert api.get("/v1/jobs", headers=first).status_code == 200
    said(api.get("/v1/jobs", headers=first), "requests-per-minute", 3)
    assert api.get("/healthz", headers=first).status_code == 200
    assert api.get("/v1/jobs", headers=second).status_code == 200
    for _ in range(5):
        assert api.get("/v1/jobs", headers=other).status_code == 200


@sqlite
def test_submissions_are_counted_by_the_job(api: Api, key: Callable[..., dict[str, str]]) -> None:
    mine = key(submissions=5)
    assert api.post("/v1/jobs/bulk", {"jobs": [BODY] * 4}, headers=mine).status_code == 202
    problem = said(api.post("/v1/jobs/bulk", {"jobs": [BODY] * 2}, headers=mine), "submissions-per-minute", 5)
    assert "asks for 2 more" in problem["detail"]
    assert api.post("/v1/jobs", BODY, headers=mine).status_code == 202
    said(api.post("/v1/jobs", BODY, headers=mine), "submissions-per-minute", 5)
    assert api.get("/v1/jobs", headers=mine).status_code == 200


@sqlite
def test_a_tenant_has_room_for_so_many_waiting_jobs(
    hand: Hand, api: Api, services: Services, key: Callable[..., dict[str, str]]
) -> None:
    mine, other = key(queued=3), key("other")
    first = api.post("/v1/jobs", {**BODY, "run_at": "2100-01-01T00:00:00Z"}, headers=mine).json
    assert api.post("/v1/jobs", BODY, headers=mine).status_code == 202
    problem = said(api.post("/v1/jobs/bulk", {"jobs": [BODY] * 2}, headers=mine), "queued", 3)
    assert "room for 1 more, not 2" in problem["detail"]
    assert jobs_there(services) == 2
    assert api.post("/v1/jobs", BODY, headers=mine).status_code == 202
    said(api.post("/v1/jobs", BODY, headers=mine), "queued", 3)
    assert api.post("/v1/jobs", BODY, headers=other).status_code == 202
    hand.claim()  # what runs does not wait
    assert api.post("/v1/jobs", BODY, headers=mine).status_code == 202
    said(api.post("/v1/jobs", BODY, headers=mine), "queued", 3)
    api.post(first["urls"]["cancel"], headers=mine)
    assert api.post("/v1/jobs", BODY, headers=mine).status_code == 202


@sqlite
def test_a_submission_sent_again_needs_no_room(api: Api, key: Callable[..., dict[str, str]]) -> None:
    mine = key(queued=1) | {"Idempotency-Key": "once"}
    made = api.post("/v1/jobs", BODY, headers=mine)
    again = api.post("/v1/jobs", BODY, headers=mine)
    assert (again.status_code, again.json["id"]) == (202, made.json["id"])
    said(api.post("/v1/jobs", BODY, headers=mine | {"Idempotency-Key": "twice"}), "queued", 1)


@sqlite
def test_a_retry_needs_room_too(hand: Hand, api: Api, key: Callable[..., dict[str, str]]) -> None:
    mine = key(queued=1)
    job = api.post("/v1/jobs", BODY, headers=mine).json
    hand.succeed(hand.claim())
    assert api.post(f"{job['urls']['self']}/retry", headers=mine).status_code == 201
    said(api.post(f"{job['urls']['self']}/retry", headers=mine), "queued", 1)


@sqlite
def test_storage_is_limited_and_deleting_makes_room(
    hand: Hand, api: Api, services: Services, key: Callable[..., dict[str, str]]
) -> None:
    mine = key(storage_bytes=1000)

    def upload(size: int) -> Any:
        return api.post("/v1/files", data={"file": (io.BytesIO(b"x" * size), "a.bin")}, headers=mine)

    first = upload(600)
    assert first.status_code == 201
    said(upload(500), "storage-bytes", 1000)
    assert len(services.files.list("acme")) == 1 and len(list(services.storage.list("files"))) == 1
    job = api.post("/v1/jobs", BODY, headers=mine).json
    hand.succeed(hand.claim(), png() * 10)
    services.limits.storage.forget("acme")  # as after ten seconds
    said(api.post("/v1/jobs", BODY, headers=mine), "storage-bytes", 1000)
    assert api.delete(job["urls"]["self"], headers=mine).status_code == 204
    assert api.delete(f"/v1/files/{first.json['id']}", headers=mine).status_code == 200
    assert upload(900).status_code == 201


@sqlite
def test_the_settings_limits_hold_for_those_without_their_own(settings: Settings) -> None:
    app = create_app(settings.with_(limit_queued=1))
    services: Services = app.extensions["qanvas"]
    try:
        api = Api(app)
        assert api.post("/v1/jobs", BODY).status_code == 202
        said(api.post("/v1/jobs", BODY), "queued", 1)
        services.tenants.set("default", {"queued": 0})
        assert api.post("/v1/jobs", BODY).status_code == 202
        services.tenants.reset("default")
        said(api.post("/v1/jobs", BODY), "queued", 1)
    finally:
        services.close()


def test_without_redis_nobody_is_refused_for_rates(caplog: pytest.LogCaptureFixture) -> None:
    rates = Rates(f"redis://127.0.0.1:{free_port()}/0")
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            rates.spend("requests", "somebody", 1)
    assert [record.message for record in caplog.records if "not enforced" in record.message] != []
    assert len(caplog.records) == 1


def test_rates_are_enforced_again_when_redis_is_back(valkey: Valkey, redis_url: str) -> None:
    rates = Rates(redis_url)
    rates.spend("requests", "somebody", 1)
    rates._away_until = 0.0  # an outage whose pause is over
    with pytest.raises(OverLimit):
        rates.spend("requests", "somebody", 1)
    rates.spend("requests", "another", 1)
    assert rates._away_until is None


@sqlite
def test_a_job_that_its_tenants_limit_holds_back_says_so(
    api: Api, services: Services, key: Callable[..., dict[str, str]], hand: Hand
) -> None:
    ann = key("ann", running=1)
    first, second = (api.post("/v1/jobs", BODY, headers=ann).json for _ in range(2))
    [running] = hand.leases.claim(hand.worker.id, "default", limit=2)
    assert running.id == first["id"]
    shown = api.get(f"/v1/jobs/{second['id']}", headers=ann).json
    assert shown["status"] == "queued"
    assert shown["waiting"] == {"reason": "tenant-limit", "position": None, "estimate": None}
    [queue] = [one for one in api.get("/v1/queues", headers=ann).json["data"] if one["name"] == "default"]
    assert (queue["queued"], queue["held_back"], queue["oldest_seconds"]) == (0, 1, None)
    _, admin = services.keys.create("ops", scopes=["admin"])
    text = api.get("/metrics", headers={"Authorization": f"Bearer {admin}"}).text
    assert 'qanvas_queue_depth{queue="default"} 0.0' in text
    assert 'qanvas_queue_held_back{queue="default"} 1.0' in text


@sqlite
def test_canceling_the_next_job_of_a_tenant_lets_in_the_one_behind_it(
    api: Api, services: Services, key: Callable[..., dict[str, str]], hand: Hand
) -> None:
    ann = key("ann", running=1)
    jobs = [api.post("/v1/jobs", BODY, headers=ann).json["id"] for _ in range(3)]
    [running] = hand.leases.claim(hand.worker.id, "default", limit=3)
    services.completion.handle(hand.succeed(running))
    assert [services.jobs.get(job_id).parked for job_id in jobs[1:]] == [False, True]
    api.post(f"/v1/jobs/{jobs[1]}/cancel", headers=ann)
    assert hand.claim().id == jobs[2]


def kept(services: Services) -> int:
    """Bytes in the storage, those of unfinished files too."""
    folder = services.settings.data / "storage"
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@sqlite
def test_uploads_at_once_share_the_quota(
    api: Api, services: Services, key: Callable[..., dict[str, str]]
) -> None:
    mine, other = key(storage_bytes=3_000_000), key("other", storage_bytes=3_000_000)

    def upload(headers: dict[str, str], size: int) -> Any:
        return api.post("/v1/files", data={"file": (io.BytesIO(b"x" * size), "a")}, headers=headers)

    with services.limits.storage.reserve("acme") as room:
        room.grow(2_000_000)  # as of another upload
        refused = said(upload(mine, 1_500_000), "storage-bytes", 3_000_000)
        assert "more are on their way" in refused["detail"]
        assert upload(other, 2_000_000).status_code == 201
        assert kept(services) == 2_000_000
    assert upload(mine, 2_500_000).status_code == 201
    said(upload(mine, 600_000), "storage-bytes", 3_000_000)


@sqlite
def test_data_uris_of_one_request_share_the_quota(
    api: Api, services: Services, key: Callable[..., dict[str, str]]
) -> None:
    mine = key(storage_bytes=100_000)
    uri = "data:image/png;base64," + base64.b64encode(png() + b"x" * 30_000).decode()
    job = {"model": "fake", "input": {"prompt": "x", "image": uri}}
    said(api.post("/v1/jobs/bulk", {"jobs": [job] * 4}, headers=mine), "storage-bytes", 100_000)
    assert kept(services) == 0 and services.files.list("acme") == []
    assert api.post("/v1/jobs/bulk", {"jobs": [job] * 3}, headers=mine).status_code == 202


def test_what_jobs_hold_in_the_database_counts_as_storage(
    hand: Hand, api: Api, services: Services, key: Callable[..., dict[str, str]]
) -> None:
    mine = key(storage_bytes=100_000)
    text = base64.b64encode(random.Random(1).randbytes(9000)).decode()  # nothing that compresses well
    job = {**BODY, "metadata": {"text": text}}
    for _ in range(8):
        assert api.post("/v1/jobs", job, headers=mine).status_code == 202
    said(api.post("/v1/jobs", job, headers=mine), "storage-bytes", 100_000)
    assert services.tenants.stored_bytes("acme") > 70_000
    services.tenants.set("acme", {"storage_bytes": 1_000_000})
    [listed, *_] = api.get("/v1/jobs", headers=mine).json["data"]
    api.post(listed["urls"]["cancel"], headers=mine)
    before = services.tenants.stored_bytes("acme")
    hand.succeed(hand.claim(), result={"text": text})
    hand.fail(hand.claim(), text)
    after = services.tenants.stored_bytes("acme")
    assert after - before > len(text) + 2000
    assert api.delete(listed["urls"]["self"], headers=mine).status_code == 204
    assert after - services.tenants.stored_bytes("acme") > 10_000


@sqlite
def test_retries_count_as_storage_at_once(
    hand: Hand, api: Api, services: Services, key: Callable[..., dict[str, str]]
) -> None:
    mine = key(storage_bytes=40_000)
    job = api.post("/v1/jobs", {**BODY, "metadata": {"text": "x" * 12_000}}, headers=mine).json
    hand.succeed(hand.claim())
    again = f"{job['urls']['self']}/retry"
    answers = [api.post(again, headers=mine).status_code for _ in range(5)]
    assert answers == [201, 201, 201, 429, 429]
