"""Tickets over a real Valkey."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from shared.errors import ConfigurationError, Unavailable
from shared.messaging.client import connect, kombu_url
from shared.messaging.tickets import TICKET, Tickets, make_celery, queue_name
from shared.settings import Settings
from tests.servers import Valkey


def settings_for(redis_url: str, tmp_path: Path) -> Settings:
    return Settings.from_env({"QANVAS_REDIS_URL": redis_url, "QANVAS_DATA": str(tmp_path)})


def wait_for(tickets: Tickets, queue: str, count: int, seconds: float = 10) -> int:
    until = time.monotonic() + seconds
    while (found := tickets.waiting(queue)) < count and time.monotonic() < until:
        time.sleep(0.02)
    return found


def test_as_many_tickets_lie_in_redis_as_were_sent(redis_url: str, tmp_path: Path) -> None:
    tickets = Tickets(settings_for(redis_url, tmp_path))
    tickets.send("default", 1200)
    tickets.send("training")
    tickets.send("default")
    assert wait_for(tickets, "default", 1201) == 1201
    assert wait_for(tickets, "training", 1) == 1
    tickets.close()


def test_a_ticket_is_a_message_that_celery_itself_reads(redis_url: str, tmp_path: Path) -> None:
    settings = settings_for(redis_url, tmp_path)
    tickets = Tickets(settings)
    tickets.send("training")
    assert wait_for(tickets, "training", 1) == 1
    with make_celery(settings).connection_for_read() as connection:
        message = connection.SimpleQueue(queue_name("training")).get(timeout=5)
    assert message.headers["task"] == TICKET
    assert message.payload[1] == {"queue": "training"}
    tickets.close()


def test_each_ticket_has_an_id_of_its_own(redis_url: str, tmp_path: Path) -> None:
    """Celery's tools tell tickets apart by it."""
    settings = settings_for(redis_url, tmp_path)
    tickets = Tickets(settings)
    tickets.send("identified", 3)
    assert wait_for(tickets, "identified", 3) == 3
    with make_celery(settings).connection_for_read() as connection:
        queue = connection.SimpleQueue(queue_name("identified"))
        messages = [queue.get(timeout=5) for _ in range(3)]
    assert len({message.headers["id"] for message in messages}) == 3
    tickets.close()


def test_a_queue_keeps_a_bounded_number_of_tickets(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.messaging.tickets.MAX_TICKETS", 700)
    tickets = Tickets(settings_for(redis_url, tmp_path))
    tickets.send("bounded", 1200)
    tickets.close()
    assert connect(redis_url, timeout=5).llen(queue_name("bounded")) == 700


def test_sending_does_not_wait_for_a_redis_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.messaging.tickets._TIMEOUT", 0.5)  # for which it is waited in the end
    tickets = Tickets(settings_for("redis://127.0.0.1:1/0", tmp_path))
    begun = time.monotonic()
    for _ in range(100):
        tickets.send("default")
    assert time.monotonic() - begun < 10  # of 50 for a hundred waits
    with pytest.raises(Unavailable, match="Redis does not answer"):
        tickets.ping()
    tickets.close()


def test_tickets_that_follow_soon_gather_and_leave_at_the_end(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.messaging.tickets._GATHER", 3600.0)
    tickets = Tickets(settings_for(redis_url, tmp_path))
    tickets.send("gathered")
    assert wait_for(tickets, "gathered", 1) == 1
    for _ in range(10):
        tickets.send("gathered")
    assert tickets.waiting("gathered") == 1
    tickets.close()
    assert connect(redis_url, timeout=5).llen(queue_name("gathered")) == 11


@pytest.mark.chaos
def test_tickets_are_sent_again_after_redis_was_restarted(tmp_path: Path) -> None:
    server = Valkey(tmp_path).start()
    tickets = Tickets(settings_for(server.url, tmp_path))
    tickets.send("default")
    assert wait_for(tickets, "default", 1) == 1
    server.kill()
    tickets.send("default")
    server.start()
    until = time.monotonic() + 20
    while tickets.waiting("training") == 0 and time.monotonic() < until:
        tickets.send("training")
        time.sleep(0.2)
    assert tickets.waiting("training") > 0
    tickets.close()
    server.stop()


def test_unix_sockets_are_spelled_as_each_library_wants_them() -> None:
    assert kombu_url("unix:///tmp/x.sock") == "redis+socket:///tmp/x.sock"
    assert kombu_url("redis://h:1/0") == "redis://h:1/0"
    assert (
        connect("redis+socket:///tmp/x.sock", timeout=1).connection_pool.connection_kwargs["path"]
        == "/tmp/x.sock"
    )
    for url in ("amqp://:secret@h", "redis://:secret/with@host:6379/0"):
        with pytest.raises(ConfigurationError, match="QANVAS_REDIS_URL is no URL") as refused:
            connect(url, timeout=1)
        assert "secret" not in str(refused.value)
