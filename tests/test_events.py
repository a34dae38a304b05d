"""Events over a real Valkey: in order, resumable, and never in anybody's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from shared.errors import Unavailable
from shared.events import Event, Events
from shared.following import Follower

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def events(redis_url: str) -> Iterator[Events]:
    opened = Events(redis_url)
    yield opened
    opened.close()


@pytest.fixture
def follower(redis_url: str) -> Iterator[Follower]:
    opened = Follower(redis_url)
    yield opened
    opened.close()


def collect(events: Events, follower: Follower, job_id: str, *, seconds: float = 10) -> list[Event]:
    """Follow a job to its ``done`` as a stream does."""
    seen: list[Event] = []
    until = time.monotonic() + seconds
    with follower.watch(job_id) as watch:
        while time.monotonic() < until:
            seen += events.read(job_id, seen[-1].id if seen else "0")
            if seen and seen[-1].type == "done":
                return seen
            watch.wait(1)
    raise AssertionError(f"no done event, only {seen}")


def test_a_reader_goes_on_where_it_stopped(events: Events, follower: Follower) -> None:
    for step in range(5):
        events.publish("job_1", "progress", {"step": step})
    events.publish("job_1", "done", {"status": "succeeded"})
    seen = collect(events, follower, "job_1")
    assert [event.data.get("step") for event in seen] == [0, 1, 2, 3, 4, None]
    assert events.read("job_1", seen[2].id) == seen[3:]
    assert [event.id for event in seen] == sorted({event.id for event in seen})


def test_events_between_the_read_and_the_wait_are_not_missed(events: Events, follower: Follower) -> None:
    threads = [
        threading.Thread(target=lambda n=n: events.publish("job_1", "token", {"text": str(n)}))
        for n in range(20)
    ]
    with follower.watch("job_1") as watch:
        assert events.read("job_1") == []
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen: list[Event] = []
        while len(seen) < 20:
            assert watch.wait(5), "the bell did not ring"
            seen += events.read("job_1", seen[-1].id if seen else "0")
    assert {event.data["text"] for event in seen} == {str(n) for n in range(20)}


def test_only_the_watchers_of_a_job_are_woken(events: Events, follower: Follower) -> None:
    with follower.watch("job_1") as first, follower.watch("job_2") as second:
        first.wait(2)
        second.wait(2)  # the subscription itself rings once
        events.publish("job_1", "status", {"status": "running"})
        assert first.wait(5)
        assert not second.wait(0.2)


def test_progress_and_preview_are_kept_until_they_are_forgotten(events: Events, follower: Follower) -> None:
    events.publish("job_1", "preview", {"step": 1}, preview=b"\x89PNG")
    events.publish("job_1", "progress", {"step": 1})
    events.publish("job_1", "progress", {"step": 2})
    events.publish("job_1", "done", {})
    collect(events, follower, "job_1")
    assert events.latest_progress(["job_1", "job_2"]) == {"job_1": {"step": 2}}
    assert events.preview("job_1") == b"\x89PNG"
    assert events.preview("job_2") is None
    events.forget("job_1")
    assert events.read("job_1") == []
    assert events.latest_progress(["job_1"]) == {}
    assert events.preview("job_1") is None


def test_without_redis_publishing_returns_at_once_and_reading_says_so() -> None:
    events = Events(NOWHERE)
    begun = time.monotonic()
    for step in range(100):
        events.publish("job_1", "progress", {"step": step})
    assert time.monotonic() - begun < 0.5
    assert events.latest_progress(["job_1"]) == {}
    with pytest.raises(Unavailable, match="Redis does not answer"):
        events.read("job_1")
    events.close()


def test_without_redis_a_watcher_looks_again_every_second() -> None:
    follower = Follower(NOWHERE)
    with follower.watch("job_1") as watch:
        watch.wait(5)
        begun = time.monotonic()
        watch.wait(30)
        assert time.monotonic() - begun < 5
    follower.close()
