"""Celery's own tools beside `qanvas up`: the data folder is all that they are told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from shared.settings import Settings
from tests.celery_tools import run_celery
from tests.e2e.conftest import Server
from tests.servers import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def celery(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    """The real command, with the data folder as all that it is told."""
    return run_celery({"QANVAS_DATA": str(settings.data)}, *words)


def inspected(settings: Settings, what: str) -> dict[str, Any]:
    """The answer of each worker."""
    done = celery(settings, "inspect", what, "--json", "--timeout", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_status_ping_and_active_show_workers_and_the_jobs_that_they_run(
    up: Callable[..., Server], up_settings: Settings
) -> None:
    server = up("--workers", "2")
    running = server.submit(prompt="x", steps=600, step_seconds=0.1)
    wait_until(lambda: server.job(running["id"])["status"] == "running", 60, what="the job to run")
    status = celery(up_settings, "status", "--timeout", "5")
    assert status.returncode == 0 and status.stdout.count(": OK") == 2, status.stdout + status.stderr
    assert all(f"{one['id']}@" in status.stdout for one in server.workers())
    assert "2 nodes online" in status.stdout
    assert [answer["ok"] for answer in inspected(up_settings, "ping").values()] == ["pong", "pong"]
    active = inspected(up_settings, "active")
    [ticket] = [one for tickets in active.values() for one in tickets if one["job_id"] is not None]
    assert (ticket["job_id"], ticket["kwargs"]) == (running["id"], {"queue": "default"})
    assert ticket["delivery_info"]["routing_key"] == "qanvas.default"
    server.http.post(f"/v1/jobs/{running['id']}/cancel")
    server.ended(running["id"])
    assert not [
        one for tickets in inspected(up_settings, "active").values() for one in tickets if one["job_id"]
    ]


def test_a_worker_of_celerys_own_is_refused(up: Callable[..., Server], up_settings: Settings) -> None:
    up()
    refused = celery(up_settings, "worker", "--pool=threads")
    assert refused.returncode != 0 and "start workers with: qanvas worker" in refused.stdout + refused.stderr
