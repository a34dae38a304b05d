"""`qanvas up` as a person runs it: real processes, spoken to over HTTP."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable

import httpx
import psutil
import pytest

from shared.settings import Settings
from tests.e2e.conftest import Server
from tests.servers import Qanvas, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Up = Callable[..., Server]


def _named(server: Server, word: str) -> list[psutil.Process]:
    """The supervisor's own children that run one command, `worker` say."""
    return [p for p in server.process.family() if p.ppid() == server.process.pid and word in p.cmdline()]


def test_a_prompt_becomes_a_picture_and_nothing_stays_behind(up: Up) -> None:
    server = up()
    job = server.submit(prompt="a red apple", seed=7, width=64, height=64, steps=4)
    assert job["status"] in ("queued", "running")
    ended = server.ended(job["id"])
    assert ended["status"] == "succeeded", ended
    picture = server.picture(ended)
    assert picture.size == (64, 64)
    said = json.dumps(picture.info, default=str)
    assert "a red apple" in said
    assert "7" in said
    [worker] = server.workers()
    assert worker["device"] == "cpu"

    family = server.process.family()
    assert len(family) >= 4  # supervisor, Valkey, API, worker
    began = time.monotonic()
    assert server.process.stop() == 0
    assert time.monotonic() - began < 10
    assert not server.process.family()
    assert server.process.output() == f"ready {server.url}\n"


def test_a_second_up_on_the_same_folder_is_refused_and_the_first_goes_on(
    up: Up, qanvas: Callable[..., Qanvas], up_settings: Settings
) -> None:
    server = up()
    second = qanvas("up", settings=up_settings)
    assert second.wait() == 1
    assert f"another `qanvas up` runs on {up_settings.data} at {server.url}" in second.said()
    assert server.ended(server.submit(prompt="x", steps=1)["id"])["status"] == "succeeded"


def test_a_port_that_another_server_has_is_refused(
    up: Up, qanvas: Callable[..., Qanvas], up_settings: Settings
) -> None:
    port = httpx.URL(up().url).port
    other = up_settings.with_(data=up_settings.data.with_name("other"), port=port)
    second = qanvas("up", settings=other.with_(database_url="", storage_url="").resolved())
    assert second.wait() == 1
    assert f"port {port} of 127.0.0.1 is in use" in second.said()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_started_again_on_the_same_folder_it_goes_on_with_the_jobs_that_were_there(
    up: Up, number: signal.Signals
) -> None:
    server = up()
    before = [server.submit(prompt=f"before {n}", steps=20, step_seconds=0.1)["id"] for n in range(4)]
    wait_until(lambda: any(server.job(job)["status"] == "running" for job in before), what="a job to run")
    began = time.monotonic()
    assert server.process.stop(number=number) == 0
    assert time.monotonic() - began < 10
    assert not server.process.family()

    again = up()
    jobs = [again.ended(job) for job in before]
    assert [job["status"] for job in jobs] == ["succeeded"] * 4
    assert all(len(job["outputs"]) == 1 for job in jobs)


@pytest.mark.chaos
def test_kill_9_of_the_supervisor_leaves_no_process_and_no_job_is_lost(up: Up) -> None:
    server = up("--workers", "2")
    jobs = [server.submit(prompt=f"job {n}", steps=10, step_seconds=0.2)["id"] for n in range(3)]
    wait_until(lambda: any(server.job(job)["status"] == "running" for job in jobs), what="a job to run")
    server.process.kill()
    wait_until(lambda: not server.process.family(), 5, what=f"the end of {server.process.family()}")

    again = up()
    assert [again.ended(job)["status"] for job in jobs] == ["succeeded"] * 3


@pytest.mark.chaos
@pytest.mark.parametrize("part", ["worker", "api", "valkey"])
def test_a_part_that_is_killed_is_started_again(up: Up, part: str) -> None:
    server = up()
    job = server.submit(prompt="through the storm", steps=20, step_seconds=0.1)["id"]
    # a job that was claimed and did not compute yet would keep its attempt
    wait_until(lambda: (server.job(job)["progress"] or {}).get("step"), what="the job to compute")
    if part == "valkey":
        [victim] = [p for p in server.process.family() if "valkey-server" in p.name()]
    else:
        victim = _named(server, part)[0]
    victim.kill()
    wait_until(lambda: _answers(server), what="the API")
    ended = server.ended(job)
    assert ended["status"] == "succeeded", ended
    if part == "worker":
        assert ended["attempts"] == 2
    after = server.submit(prompt="after the storm", steps=1)["id"]
    assert server.ended(after)["status"] == "succeeded"


@pytest.mark.chaos
def test_a_job_that_kills_its_worker_fails_and_the_others_go_on(up: Up) -> None:
    server = up()
    deadly = server.submit(prompt="deadly", steps=3, crash_at_step=2)["id"]
    harmless = server.submit(prompt="harmless", steps=3)["id"]
    spared = server.ended(harmless)
    assert spared["status"] == "succeeded", (spared["attempts"], spared["error"])
    ended = server.ended(deadly, seconds=180)
    assert (ended["status"], ended["error"]["type"]) == ("failed", "worker-lost")
    assert ended["attempts"] == 3


@pytest.mark.chaos
def test_a_worker_whose_device_fails_is_started_again_also_while_the_server_starts(up: Up) -> None:
    """It ends by itself with an exit status, which at a start else means that a part does not want to run."""
    server = up()
    first = server.submit(prompt="poison", steps=3, poison_at_step=1)["id"]
    spared = server.ended(server.submit(prompt="harmless", steps=3)["id"])
    assert (spared["status"], spared["attempts"]) == ("succeeded", 1)
    ended = server.ended(first, seconds=180)
    assert (ended["status"], ended["error"]["type"], ended["attempts"]) == ("failed", "worker-lost", 3)
    assert "exit status 75" in server.process.said()
    second = server.submit(prompt="poison", steps=3, poison_at_step=1, step_seconds=0.01)["id"]
    server.process.stop()

    again = up()
    assert again.ended(second, seconds=180)["attempts"] == 3
    assert again.ended(again.submit(prompt="after it", steps=1)["id"])["status"] == "succeeded"


def test_several_workers_share_the_jobs(up: Up) -> None:
    server = up("--workers", "2")
    wait_until(lambda: len(server.workers()) == 2, 120, what="the second worker")
    assert len({worker["pid"] for worker in server.workers()}) == 2
    jobs = [server.submit(prompt=f"{n}", steps=5, step_seconds=0.1)["id"] for n in range(8)]
    ended = [server.ended(job) for job in jobs]
    assert {(job["status"], job["attempts"]) for job in ended} == {("succeeded", 1)}


def test_beyond_loopback_it_wants_the_key(
    up: Up, qanvas: Callable[..., Qanvas], up_settings: Settings
) -> None:
    assert qanvas("migrate", settings=up_settings).wait() == 0
    made = qanvas("keys", "create", "me", settings=up_settings)
    assert made.wait() == 0
    server = up("--host", "0.0.0.0")
    assert server.url.startswith("http://0.0.0.0:")
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401
    key = {"Authorization": f"Bearer {made.output().strip()}"}
    assert httpx.get(f"{url}/v1/models", headers=key, trust_env=False).status_code == 200


def _answers(server: Server) -> bool:
    try:
        return server.http.get("/readyz").is_success
    except httpx.TransportError:
        return False
