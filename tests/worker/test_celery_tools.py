"""What operators know of Celery works against a running worker: its own commands, and Flower."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.messaging.embedded_address import address_in
from shared.settings import Settings
from shared.states import Status
from tests.celery_tools import COMMAND, ROOT, environment, run_celery
from tests.servers import Qanvas, free_port, wait_until
from tests.worker.conftest import Shop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _celery(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_celery(settings.as_env(), *arguments)


def _inspect(shop: Shop, what: str) -> Any:
    """What the only worker answered."""
    done = _celery(shop.settings, "inspect", "--json", "--timeout", "5", what)
    assert done.returncode == 0, done.stderr
    return next(iter(json.loads(done.stdout).values()))


@pytest.mark.parametrize("open_all_day", ["sqlite"], indirect=True)
def test_status_and_ping_name_the_worker(open_all_day: Shop) -> None:
    shop = open_all_day
    [worker] = shop.registry.alive(within=60)
    status = _celery(shop.settings, "status")
    assert status.returncode == 0, status.stderr
    assert f"{worker.id}@{worker.host}: OK" in status.stdout
    assert "1 node online" in status.stdout
    assert _inspect(shop, "ping") == {"ok": "pong"}


@pytest.mark.parametrize("open_all_day", ["sqlite"], indirect=True)
def test_inspect_tells_the_job_of_a_ticket_the_queues_and_the_size_of_the_pool(open_all_day: Shop) -> None:
    shop = open_all_day
    long = shop.draw(steps=400, step_seconds=0.1)
    shop.wait_for_step(long, 1)
    [ticket] = _inspect(shop, "active")
    assert (ticket["name"], ticket["kwargs"]) == ("qanvas.ticket", {"queue": "default"})
    assert ticket["job_id"] == long
    shop.jobs.cancel(long)
    assert shop.wait(long).status is Status.CANCELED
    wait_until(lambda: not _inspect(shop, "active"), 30, what="the ticket to end")
    queues = {queue["name"] for queue in _inspect(shop, "active_queues")}
    assert queues == {f"qanvas.{queue}" for queue in shop.settings.queues}
    mixed = len(shop.settings.queues) > 1
    assert _inspect(shop, "stats")["pool"]["max-concurrency"] == shop.settings.slots + mixed


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_control_shutdown_drains_the_worker_as_a_signal_does(shop: Shop) -> None:
    worker = shop.worker(drain_seconds=0.5)
    long = shop.draw(steps=400, step_seconds=0.1)
    shop.wait_for_step(long, 1)
    assert _celery(shop.settings, "control", "shutdown").returncode in (0, 69)  # nobody answers: it leaves
    assert worker.wait(60) == 0
    assert shop.jobs.get(long).status is Status.QUEUED


def test_status_sees_the_worker_of_qanvas_up(qanvas: Callable[..., Qanvas], tmp_path: Path) -> None:
    given = {"QANVAS_PORT": "0", "QANVAS_FAKE_MODELS": "1", "QANVAS_DEVICE": "cpu"}
    settings = Settings.from_env({"QANVAS_DATA": str(tmp_path / "data"), **given})
    qanvas("up", settings=settings).wait_for_line("ready ", 300)
    embedded = settings.with_(redis_url=address_in(tmp_path / "data" / "valkey").url)
    status = _celery(embedded, "status")
    assert status.returncode == 0, status.stderr
    assert "1 node online" in status.stdout


def test_celery_worker_refuses_to_take_tickets_for_jobs_that_it_could_not_run(tmp_path: Path) -> None:
    done = _celery(Settings.from_env({"QANVAS_DATA": str(tmp_path)}), "worker")
    assert done.returncode != 0
    assert "start workers with: qanvas worker" in done.stderr


@pytest.fixture
def flower(open_all_day: Shop) -> Iterator[str]:
    """The URL of a Flower that watches the shop."""
    port = free_port()
    process = subprocess.Popen(
        [*COMMAND, "flower", f"--port={port}"],
        cwd=ROOT,
        env=environment(open_all_day.settings.as_env()) | {"FLOWER_UNAUTHENTICATED_API": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _get(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except (urllib.error.URLError, TimeoutError):
        return {}


@pytest.mark.parametrize("open_all_day", ["sqlite"], indirect=True)
def test_flower_shows_the_worker_and_the_tickets_that_it_ran(open_all_day: Shop, flower: str) -> None:
    shop = open_all_day
    [worker] = shop.registry.alive(within=60)
    name = f"{worker.id}@{worker.host}"
    wait_until(lambda: _get(f"{flower}/api/workers?refresh=1").get(name), 60, what="Flower to see the worker")
    assert {queue["name"] for queue in _get(f"{flower}/api/workers")[name]["active_queues"]} == {
        f"qanvas.{queue}" for queue in shop.settings.queues
    }

    def succeeded() -> bool:
        shop.wait(shop.draw(steps=1))
        tickets = _get(f"{flower}/api/tasks?state=SUCCESS").values()
        return any(ticket["name"] == "qanvas.ticket" and name in str(ticket["worker"]) for ticket in tickets)

    wait_until(succeeded, 60, what="Flower to see a ticket end")
