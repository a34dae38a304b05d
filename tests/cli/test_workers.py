"""One worker for each device, under one command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from cli import workers
from cli.commands.up import up
from shared.db.engine import Database
from shared.errors import ConfigurationError
from shared.jobs.workers import WorkerRegistry
from shared.settings import Settings
from tests.servers import wait_until

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_devices_are_those_that_torch_finds() -> None:
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    assert workers.devices() == (gpus or ["cpu"])


def test_a_machine_that_cannot_say_gets_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(
        ConfigurationError, match=r"pip install 'qanvas\[worker\]', or name one with --device"
    ):
        workers.devices()


def test_a_number_of_workers_that_is_none_is_refused() -> None:
    answer = CliRunner().invoke(up, ["--workers", "0"])
    assert answer.exit_code == 2 and "'--workers'" in answer.output


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_each_device_has_a_worker_that_comes_back_and_all_leave_together(
    settings: Settings, database: Database
) -> None:
    registry = WorkerRegistry(database)
    program = (
        "from cli.workers import run_each; from shared.settings import Settings\n"
        "run_each(Settings.from_env(), ['cpu', 'cpu'])"
    )
    env = {**os.environ, **settings.as_env()}
    parent = subprocess.Popen([sys.executable, "-c", program], env=env, cwd=ROOT)

    def alive() -> set[int]:
        there = {child.pid for child in psutil.Process(parent.pid).children()}
        return there & {worker.pid for worker in registry.alive(within=3600)}

    try:
        wait_until(lambda: len(alive()) == 2, 150, what="two workers")
        first = min(alive())
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(alive() - {first}) == 2, 150, what="the one that was killed to come back")
        last = [psutil.Process(pid) for pid in alive()]
        parent.terminate()
        assert parent.wait(60) == 0
        assert not any(worker.is_running() for worker in last)
    finally:
        parent.kill()
        parent.wait()
