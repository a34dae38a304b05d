"""A job's events as a stream."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from api.app import create_app
from api.native import event_stream
from api.usecases import job_watcher
from api.usecases.services import Services
from shared.settings import Settings
from tests.api.helpers import Api, Hand, png
from tests.servers import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def follow(app: Flask, job_id: str, after: str | None = None) -> Iterator[dict[str, Any]]:
    headers = {} if after is None else {"Last-Event-ID": after}
    answer = app.test_client().get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert answer.status_code == 200 and answer.mimetype == "text/event-stream"
    buffer = ""
    for piece in answer.iter_encoded():
        buffer += piece.decode()
        while "\n\n" in buffer:
            block, _, buffer = buffer.partition("\n\n")
            if not block.startswith("id: "):
                continue
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            yield {**fields, "data": json.loads(fields["data"])}


def test_a_finished_job_replays_and_ends(hand: Hand, api: Api, app: Flask) -> None:
    id = api.submit()["id"]
    job = hand.claim()
    for step in (1, 2):
        hand.services.events.publish(id, "progress", {"stage": "denoise", "step": step, "total": 2})
    hand.succeed(job, png())
    seen = list(follow(app, id))
    assert [event["event"] for event in seen] == ["status", "progress", "progress", "status", "done"]
    assert seen[0]["data"] == {"status": "queued"}
    assert seen[-1]["data"]["status"] == "succeeded" and seen[-1]["data"]["outputs"][0]["index"] == 0
    order = [tuple(map(int, event["id"].split("-"))) for event in seen]
    assert order == sorted(set(order))


def test_a_stream_goes_on_after_the_last_event_that_was_seen(hand: Hand, api: Api, app: Flask) -> None:
    id = api.submit()["id"]
    hand.succeed(hand.claim())
    seen = list(follow(app, id))
    for index, event in enumerate(seen[:-1]):
        assert list(follow(app, id, event["id"])) == seen[index + 1 :]
    end = api.get(f"/v1/jobs/{id}/events", headers={"Last-Event-ID": seen[-1]["id"]})
    assert end.status_code == 204


def test_events_come_as_they_happen(hand: Hand, api: Api, app: Flask, monkeypatch: Any) -> None:
    monkeypatch.setattr(job_watcher, "_ASK_EVERY", 60.0)  # it is told, and does not look by itself
    id = api.submit()["id"]
    events = follow(app, id)
    assert next(events)["event"] == "status"
    job = hand.claim()
    began = time.monotonic()
    for step in range(3):
        hand.services.events.publish(id, "token", {"text": f"{step}"})
        assert next(events)["data"] == {"text": f"{step}"}
    assert time.monotonic() - began < 20
    hand.succeed(job)
    assert [event["event"] for event in events] == ["status", "done"]


def test_a_canceled_job_ends_its_stream_at_once(api: Api, app: Flask, monkeypatch: Any) -> None:
    monkeypatch.setattr(job_watcher, "_ASK_EVERY", 60.0)
    id = api.submit()["id"]
    events = follow(app, id)
    next(events)
    api.post(f"/v1/jobs/{id}/cancel")
    began = time.monotonic()
    assert [(event["event"], event["data"]["status"]) for event in events] == [
        ("status", "canceled"),
        ("done", "canceled"),
    ]
    assert time.monotonic() - began < 20


def test_a_stream_ends_though_nobody_announced_the_end(
    hand: Hand, api: Api, app: Flask, monkeypatch: Any
) -> None:
    monkeypatch.setattr(job_watcher, "_ASK_EVERY", 0.2)
    id = api.submit()["id"]
    events = follow(app, id)
    next(events)
    hand.services.jobs.cancel(id)
    [done] = list(events)
    assert done["event"] == "done" and done["data"]["status"] == "canceled"


def test_a_stream_works_without_redis(hand: Hand, api: Api, app: Flask, valkey: Any) -> None:
    id = api.submit()["id"]
    valkey.pause()
    try:
        services = hand.services
        services.jobs.cancel(id)
    finally:
        valkey.resume()
    assert [event["event"] for event in follow(app, id)] == ["status", "done"]


def test_silence_is_broken_by_comments(api: Api, app: Flask, services: Services, monkeypatch: Any) -> None:
    monkeypatch.setattr(event_stream, "_COMMENT_EVERY", 0.1)
    id = api.submit()["id"]
    answer = app.test_client().get(f"/v1/jobs/{id}/events")
    pieces = answer.iter_encoded()
    read = b"".join(next(pieces) for _ in range(5))
    assert read.count(b"\n: ") == 3
    answer.close()


def test_a_stream_ends_when_the_server_stops(api: Api, app: Flask, services: Services) -> None:
    id = api.submit()["id"]
    events = follow(app, id)
    next(events)
    threading.Timer(0.2, services.stop_waiting).start()
    assert list(events) == []


@pytest.mark.parametrize("id", ["x", "1", "-", "1-2-3", "9" * 40 + "-0", "(1-0"])
def test_an_event_id_that_none_can_be_is_refused(api: Api, id: str) -> None:
    path = f"{api.submit()['urls']['events']}"
    assert api.get(path, headers={"Last-Event-ID": id}).status_code == 422


def test_streams_beyond_the_limit_are_refused_and_others_are_answered(settings: Settings) -> None:
    most = 8
    app = create_app(settings.with_(api_streams=2 * most))
    api = Api(app)
    id = api.submit()["id"]
    client = app.test_client()
    answers = [client.get(f"/v1/jobs/{id}/events") for _ in range(most)]
    assert {answer.status_code for answer in answers} == {200}
    refused = api.get(f"/v1/jobs/{id}/events")
    assert refused.status_code == 429 and refused.headers["Retry-After"]
    began = time.monotonic()
    assert api.get(f"/v1/jobs/{id}?wait=30").status_code == 200  # no seat: answered as it is
    assert time.monotonic() - began < 20
    for answer in answers:
        answer.close()
    wait_until(lambda: app.test_client().head(f"/v1/jobs/{id}/events").status_code == 200)
    client.get(f"/v1/jobs/{id}/events").close()
    app.extensions["qanvas"].close()
