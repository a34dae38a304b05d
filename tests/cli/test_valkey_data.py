"""Valkey's data that it cannot read, and its memory: a real server on real files."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.embedded import valkey
from cli.embedded.folder import DataFolder
from cli.embedded.keeper import Keeper
from shared.messaging.client import connect
from shared.messaging.events import Events
from shared.messaging.tickets import Tickets, queue_name
from shared.settings import Settings
from tests.servers import wait_until

pytestmark = pytest.mark.slow


class Kept:
    """A Valkey that a keeper keeps."""

    def __init__(self, data: Path, memory: int = 64 << 20) -> None:
        self.keeper = Keeper(DataFolder(data), {})
        self.child = valkey.ValkeyChild(data / "valkey", memory, {}, data / "logs" / "valkey.log")
        self.keeper.add(self.child)
        self.wait()

    def wait(self) -> None:
        def answers() -> bool:
            self.keeper.tend()
            return self.child.answered

        wait_until(answers, 40, what="Valkey")

    def kill(self) -> None:
        assert self.child.process is not None
        self.child.process.kill()
        self.child.process.wait()

    def stop(self) -> None:
        self.keeper.stop([(self.keeper.children, 5.0)])
        self.child.clear()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Kept]]:
    monkeypatch.setattr("cli.embedded.restarts._LONGEST_WAIT", 0.2)
    monkeypatch.setattr(valkey, "_LOAD_SECONDS", 3.0)
    started: list[Kept] = []

    def start(data: Path, **options: int) -> Kept:
        started.append(Kept(data, **options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def _written(client: Any) -> None:
    """Wait until what was sent lies on the disk: while it syncs, Valkey puts off writes to its file."""
    assert client.execute_command("WAITAOF", 1, 0, 5000)[0] == 1


def _only(folder: Path, pattern: str) -> Path:
    [found] = folder.rglob(pattern)
    return found


def _broken_in_the_middle(folder: Path) -> None:
    file = _only(folder, "*.incr.aof")
    text = file.read_bytes()
    file.write_bytes(text[: len(text) // 2] + b"*9\r\n$garbage" + text[len(text) // 2 :])


def _garbage(folder: Path) -> None:
    _only(folder, "*.incr.aof").write_bytes(os.urandom(5000))


def _wrong_manifest(folder: Path) -> None:
    _only(folder, "*.manifest").write_text("file appendonly.aof.7.base.rdb seq 7 type b\n")


def _newer_format(folder: Path) -> None:
    _only(folder, "*.base.rdb").write_bytes(b"REDIS9999" + bytes(100))


def _folder_in_place_of_a_file(folder: Path) -> None:
    file = _only(folder, "*.incr.aof")
    file.unlink()
    file.mkdir()


def _pipe_in_place_of_a_file(folder: Path) -> None:
    """Opening it waits for a writer, for ever."""
    file = _only(folder, "*.incr.aof")
    file.unlink()
    os.mkfifo(file)


def _file_in_place_of_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def _folder_in_place_of_the_socket(folder: Path) -> None:
    (folder / "valkey.sock").mkdir()


FAULTS = (
    _broken_in_the_middle,
    _garbage,
    _wrong_manifest,
    _newer_format,
    _folder_in_place_of_a_file,
    _pipe_in_place_of_a_file,
    _file_in_place_of_the_folder,
    _folder_in_place_of_the_socket,
)


@pytest.mark.parametrize("damage", FAULTS, ids=[fault.__name__[1:] for fault in FAULTS])
def test_data_that_cannot_be_read_are_set_aside_and_it_starts_without_them(
    run: Callable[..., Kept], tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    first = run(tmp_path)
    for number in range(50):
        connect(first.child.address.url, timeout=5).set(f"k{number}", "v" * 20)
    first.stop()
    damage(tmp_path / "valkey")
    caplog.clear()
    second = run(tmp_path)
    assert connect(second.child.address.url, timeout=5).dbsize() == 0
    [aside] = tmp_path.glob("valkey.unreadable-*")
    said = [one.getMessage() for one in caplog.records if "set aside" in one.getMessage()]
    assert len(said) == 1 and str(aside) in said[0] and "No job is lost" in said[0]


def test_data_that_are_only_cut_off_are_kept(run: Callable[..., Kept], tmp_path: Path) -> None:
    first = run(tmp_path)
    client = connect(first.child.address.url, timeout=5)
    client.set("first", "1")
    client.set("last", "2")
    _written(client)
    first.kill()
    first.stop()
    file = _only(tmp_path / "valkey", "*.incr.aof")
    file.write_bytes(file.read_bytes()[:-5])
    second = run(tmp_path)
    assert connect(second.child.address.url, timeout=5).get("first") == b"1"
    assert not list(tmp_path.glob("valkey.unreadable-*"))


@pytest.mark.chaos
def test_data_that_break_while_it_runs_are_set_aside_after_its_second_death_and_few_are_kept(
    run: Callable[..., Kept], tmp_path: Path
) -> None:
    kept = run(tmp_path)
    for _ in range(valkey._KEPT_ASIDE + 2):
        connect(kept.child.address.url, timeout=5).set("k", "v" * 100)
        kept.kill()
        _garbage(tmp_path / "valkey")
        kept.child.answered = True  # as it did before it was killed
        wait_until(lambda: kept.keeper.tend() or not kept.child.answered, 20, what="its next start")
        kept.wait()
    assert len(list(tmp_path.glob("valkey.unreadable-*"))) == valkey._KEPT_ASIDE


def test_a_server_that_is_killed_often_keeps_its_data(run: Callable[..., Kept], tmp_path: Path) -> None:
    kept = run(tmp_path)
    client = connect(kept.child.address.url, timeout=5)
    client.set("k", "v")
    _written(client)
    for _ in range(4):
        kept.kill()
        wait_until(lambda: kept.keeper.tend() or not kept.child.answered, 20, what="its next start")
        kept.wait()
    assert connect(kept.child.address.url, timeout=5).get("k") == b"v"


def test_when_its_memory_is_full_old_events_go_and_tickets_stay(
    run: Callable[..., Kept], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    kept = run(tmp_path, memory=16 << 20)
    settings = Settings.from_env({"QANVAS_DATA": str(tmp_path), "QANVAS_REDIS_URL": kept.child.address.url})
    client = connect(settings.redis_url, timeout=5)
    tickets, events = Tickets(settings), Events(settings.redis_url)
    try:
        tickets.send("default", 500)
        wait_until(lambda: tickets.waiting("default") == 500, what="the tickets")
        for number in range(300):  # 60 MB of previews; the first 60 are two seconds older than the others
            if number == 60:
                time.sleep(2)  # Valkey counts the age of a key in whole seconds
            events.publish(f"job_{number}", "preview", {"url": "/"}, preview=os.urandom(200_000))
            if number % 20 == 19:  # sent at once, they would not be taken in the time that a batch has
                wait_until(lambda: events.preview(f"job_{number}") is not None, 30, what="a preview")  # noqa: B023
        events.publish("job_last", "status", {"status": "running"})
        wait_until(lambda: events.read("job_last"), 30, what="the last event")
        assert tickets.waiting("default") == 500
        assert client.info("memory")["used_memory_dataset"] < 16 << 20
        assert client.info("stats")["evicted_keys"] > 100
        assert events.preview("job_299") is not None
        left = [number for number in range(300) if events.preview(f"job_{number}") is not None]
        assert len([number for number in left if number < 60]) <= 3  # it finds the oldest by samples
        assert 50 < len(left) < 100
        tickets.send("default", 10)
        wait_until(lambda: tickets.waiting("default") == 510, what="more tickets")
    finally:
        tickets.close()
        events.close()
    assert not [one for one in caplog.records if "dropped" in one.getMessage()]


def test_every_key_but_tickets_expires_and_tickets_are_bounded(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.from_env({"QANVAS_DATA": str(tmp_path), "QANVAS_REDIS_URL": redis_url})
    monkeypatch.setattr("shared.messaging.tickets.MAX_TICKETS", 700)
    client = connect(redis_url, timeout=5)
    tickets, events = Tickets(settings), Events(redis_url)
    try:
        for kind in ("status", "progress", "token", "output", "preview", "done"):
            events.publish("job_1", kind, {"n": 1}, preview=b"x" if kind == "preview" else None)  # type: ignore[arg-type]
        tickets.send("default", 2000)
        wait_until(
            lambda: events.read("job_1") and events.read("job_1")[-1].type == "done", what="the events"
        )
        wait_until(lambda: tickets.waiting("default") == 700, what="the tickets")
    finally:
        tickets.close()
        events.close()
    lasting = {key.decode() for key in client.keys("*") if client.ttl(key) < 0}
    assert lasting == {queue_name("default")}
