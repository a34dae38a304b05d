"""Events over a real Valkey: in order, resumable, and never in anybody's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pytest

from api.usecases.job_watcher import JobWatcher
from shared.errors import Unavailable
from shared.messaging.events import Event, Events, Speaker
from tests.servers import wait_until

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def events(redis_url: str) -> Iterator[Events]:
    opened = Events(redis_url)
    yield opened
    opened.close()


@pytest.fixture
def follower(redis_url: str) -> Iterator[JobWatcher]:
    opened = JobWatcher(redis_url, ended=lambda job_ids: ())
    yield opened
    opened.close()


def collect(events: Events, follower: JobWatcher, job_id: str, *, seconds: float = 10) -> list[Event]:
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


def test_a_reader_goes_on_where_it_stopped(events: Events, follower: JobWatcher) -> None:
    for step in range(5):
        events.publish("job_1", "progress", {"step": step})
    events.publish("job_1", "done", {"status": "succeeded"})
    seen = collect(events, follower, "job_1")
    assert [event.data.get("step") for event in seen] == [0, 1, 2, 3, 4, None]
    assert events.read("job_1", seen[2].id) == seen[3:]
    assert [event.id for event in seen] == sorted({event.id for event in seen})


def test_events_between_the_read_and_the_wait_are_not_missed(events: Events, follower: JobWatcher) -> None:
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


def test_only_the_watchers_of_a_job_are_woken(events: Events, follower: JobWatcher) -> None:
    with follower.watch("job_1") as first, follower.watch("job_2") as second:
        first.wait(2)
        second.wait(2)  # the subscription itself rings once
        events.publish("job_1", "status", {"status": "running"})
        assert first.wait(5)
        assert not second.wait(0.2)


def test_progress_and_preview_are_kept_until_they_are_forgotten(events: Events, follower: JobWatcher) -> None:
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


def test_what_an_attempt_says_after_a_later_one_has_spoken_is_dropped(
    events: Events, follower: JobWatcher, redis_url: str
) -> None:
    """It comes from a worker that was stopped, and knows nothing of the other one."""
    stopped = Events(redis_url)  # another process, whose events need not arrive in order
    events.publish("job_1", "status", {"status": "running", "attempt": 2}, speaker=Speaker(2))
    events.publish("job_1", "preview", {"of": 2}, preview=b"of 2", speaker=Speaker(2))
    events.publish("job_1", "progress", {"step": 1, "of": 2}, speaker=Speaker(2))
    wait_until(lambda: events.latest_progress(["job_1"]), what="the first events")
    stopped.publish("job_1", "status", {"status": "queued"}, speaker=Speaker(1, over=True))
    stopped.publish("job_1", "preview", {"of": 1}, preview=b"of 1", speaker=Speaker(1))
    stopped.publish("job_1", "progress", {"step": 9, "of": 1}, speaker=Speaker(1))
    stopped.publish("job_1", "token", {"text": "late"}, speaker=Speaker(1))
    stopped.close()
    events.publish("job_1", "progress", {"step": 2, "of": 2}, speaker=Speaker(2))
    events.publish("job_1", "done", {"status": "succeeded"}, speaker=Speaker(2, over=True))
    heard = collect(events, follower, "job_1")
    assert [event.data.get("step") for event in heard if event.type == "progress"] == [1, 2]
    assert {event.type for event in heard} == {"status", "preview", "progress", "done"}
    assert events.latest_progress(["job_1"]) == {"job_1": {"step": 2, "of": 2}}
    assert events.preview("job_1") == b"of 2"
    after = Events(redis_url)  # an attempt that was canceled, and whose worker did not hear of it
    after.publish("job_1", "preview", {"of": 2}, preview=b"after the end", speaker=Speaker(2))
    after.close()
    events.forget("job_1")
    after = Events(redis_url)
    after.publish("job_1", "progress", {"step": 3}, speaker=Speaker(2))
    after.close()
    assert events.read("job_1") == [] and events.preview("job_1") is None


def test_without_redis_publishing_returns_at_once_and_reading_says_so() -> None:
    events = Events(NOWHERE)
    begun = time.monotonic()
    for step in range(100):
        events.publish("job_1", "progress", {"step": step})
    assert time.monotonic() - begun < 10
    assert events.latest_progress(["job_1"]) == {}
    with pytest.raises(Unavailable, match="Redis does not answer: ") as away:
        events.read("job_1")
    assert away.value.public == "Redis does not answer; the server's log says why"
    events.close()


def test_without_redis_the_database_is_asked_once_for_all_who_watch() -> None:
    asked: list[set[str]] = []

    def ended(job_ids: Collection[str]) -> Collection[str]:
        asked.append(set(job_ids))
        return {"job_1"} & set(job_ids)

    follower = JobWatcher(NOWHERE, ended)
    with (
        follower.watch("job_1") as first,
        follower.watch("job_1") as second,
        follower.watch("job_2") as other,
    ):
        assert all(watch.shall_look() for watch in (first, second, other)), "nobody has looked yet"
        assert first.wait(30) and first.shall_look()
        assert second.wait(30) and second.shall_look()
        assert not other.shall_look()
        wait_until(lambda: {"job_1", "job_2"} in asked, what="one question for all")
    follower.close()


def test_a_database_that_is_away_too_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([Unavailable("the database does not answer")])

    def ended(job_ids: Collection[str]) -> Collection[str]:
        for error in answers:
            raise error
        return job_ids

    follower = JobWatcher(NOWHERE, ended)
    with follower.watch("job_1", ends_only=True) as watch:
        assert watch.wait(30), "it was not asked again"
    follower.close()


def test_one_who_waits_for_the_end_alone_is_not_woken_by_progress(
    events: Events, follower: JobWatcher
) -> None:
    with follower.watch("job_1") as every:
        assert every.wait(10), "the subscription itself rings once"
        with follower.watch("job_1", ends_only=True) as end:
            events.publish("job_1", "progress", {"step": 1})
            assert every.wait(10) and not end.wait(0.2)
            events.publish("job_1", "done", {"status": "succeeded"})
            assert end.wait(10)


def test_progress_of_jobs_that_step_together_is_sent_together(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.messaging.events._GATHER", 60.0)
    sent: list[int] = []
    send = events._send

    def counted(batch: Sequence[Any]) -> None:
        sent.append(len(batch))
        send(batch)

    monkeypatch.setattr(events, "_send", counted)
    for number in range(8):
        events.publish(f"job_{number}", "progress", {"step": 1})
        time.sleep(0.002)
    events.publish("job_0", "progress", {"step": 2})
    events.close()
    assert sent == [9]


def test_nothing_else_waits_for_progress(
    events: Events, follower: JobWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.messaging.events._GATHER", 60.0)
    events.publish("job_1", "progress", {"step": 1})
    time.sleep(0.1)  # its sender waits for more
    events.publish("job_1", "done", {"status": "succeeded"})
    assert [event.type for event in collect(events, follower, "job_1")] == ["progress", "done"]
