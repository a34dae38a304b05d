"""Attempts and dead letters, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from api.usecases.services import Services
from shared.accounts.keys import Scope
from tests.api.helpers import Api, Hand, faults

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def dead(hand: Hand, api: Api, **how: Any) -> str:
    api.submit()
    return str(hand.fail(hand.claim(), **how).id)


def test_a_letter_is_listed_with_its_attempts_and_retried_by_filter(hand: Hand, api: Api) -> None:
    big = dead(hand, api, type="out-of-memory", message="too big")
    broken = dead(hand, api)
    found = api.get("/v1/dead-letters").json
    assert [one["job"]["id"] for one in found["data"]] == [broken, big] and found["next_cursor"] is None
    [attempt] = found["data"][1]["attempts"]
    assert (attempt["attempt"], attempt["how"], attempt["host"]) == (1, "failed", "here")
    assert attempt["error"] == {"type": "out-of-memory", "message": "too big", "retryable": False}
    [only] = api.get("/v1/dead-letters?error_type=out-of-memory&model=fake").json["data"]
    assert (only["job"]["id"], only["retried_as"]) == (big, None)

    answer = api.post("/v1/dead-letters/retry", {"error_type": "out-of-memory"}).json
    [made] = answer["retried"]
    assert made["job"] == big and answer["skipped"] == []
    assert api.get(f"/v1/jobs/{made['retried_as']}").json["metadata"] == {"retry_of": big}
    nothing = {"retried": [], "skipped": [], "next_cursor": None}
    assert api.post("/v1/dead-letters/retry", {"error_type": "out-of-memory"}).json == nothing
    [only] = api.get("/v1/dead-letters?error_type=out-of-memory").json["data"]
    assert only["retried_as"] == made["retried_as"]


def test_retries_go_on_where_they_ended_and_leave_alone_what_they_made(hand: Hand, api: Api) -> None:
    letters = [dead(hand, api) for _ in range(5)]
    body: dict[str, Any] = {"limit": 2}
    pages = []
    while True:
        answer = api.post("/v1/dead-letters/retry", body).json
        pages.append([one["job"] for one in answer["retried"]])
        for _ in answer["retried"]:
            hand.fail(hand.claim())
        if answer["next_cursor"] is None:
            break
        body["cursor"] = answer["next_cursor"]
    assert pages == [letters[:2], letters[2:4], letters[4:]]


def test_a_chain_is_retried_as_a_chain(hand: Hand, api: Api) -> None:
    first = api.submit()["id"]
    second = api.submit(depends_on=[first])["id"]
    hand.fail(hand.claim())
    hand.services.completion.settle()
    failed = {"error_type": "dependency-failed"}
    [left] = api.post("/v1/dead-letters/retry", failed).json["skipped"]
    assert left["job"] == second and f"/v1/jobs/{first}/retry" in left["detail"]
    refused = api.post(f"/v1/jobs/{second}/retry")
    assert refused.status_code == 409 and f"/v1/jobs/{first}/retry" in refused.json["detail"]
    made = api.post("/v1/dead-letters/retry", {}).json["retried"]
    assert [one["job"] for one in made] == [first, second]
    again = api.get(f"/v1/jobs/{made[1]['retried_as']}").json
    assert (again["status"], again["depends_on"]) == ("scheduled", [made[0]["retried_as"]])


@one_database
def test_tracebacks_are_for_admins(hand: Hand, api: Api, services: Services) -> None:
    def key(*scopes: Scope) -> dict[str, str]:
        _, secret = services.keys.create("test", scopes=scopes)
        return {"Authorization": f"Bearer {secret}"}

    letter = dead(hand, api, traceback="the secret line")
    for path in (f"/v1/jobs/{letter}/attempts", "/v1/dead-letters"):
        assert "the secret line" in api.get(path, headers=key("admin")).text
        seen = api.get(path, headers=key("read")).text
        assert "broke" in seen and "secret" not in seen and "traceback" not in seen


@one_database
def test_the_limit_of_waiting_jobs_ends_retries_early(hand: Hand, api: Api, services: Services) -> None:
    letters = [dead(hand, api) for _ in range(3)]
    services.tenants.set("default", {"queued": 2})
    answer = api.post("/v1/dead-letters/retry", {}).json
    assert [one["job"] for one in answer["retried"]] == letters[:2]
    assert answer["next_cursor"].startswith(letters[1])
    assert api.post("/v1/dead-letters/retry", {"cursor": answer["next_cursor"]}).status_code == 429
    hand.claim()
    answer = api.post("/v1/dead-letters/retry", {"cursor": answer["next_cursor"]}).json
    assert [one["job"] for one in answer["retried"]] == letters[2:]


@one_database
@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"limit": 201}, "/limit"),
        ({"limit": 0}, "/limit"),
        ({"cursor": "job_1"}, "/cursor"),
        ({"since": "yesterday"}, "/since"),
        ({"since": "1930-01-01T00:00:00Z"}, "/since"),
        ({"error_type": "bad-luck"}, "/error_type"),
        ({"status": "failed"}, "/status"),
    ],
)
def test_a_filter_that_is_none_is_refused(body: dict[str, Any], pointer: str, api: Api) -> None:
    answer = api.post("/v1/dead-letters/retry", body)
    assert answer.status_code == 422 and list(faults(answer)) == [pointer]
    [(name, value)] = body.items()
    answer = api.get("/v1/dead-letters", query_string={name: value})
    assert answer.status_code == 422 and list(faults(answer)) == [pointer]
