"""One worker process for each device of this machine, started, restarted and ended together."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.embedded import children
from cli.embedded.keeper import why
from cli.embedded.restarts import Complaints, Restarts
from cli.signals import Stopped, stopping, undisturbed
from shared.errors import ConfigurationError
from shared.settings import Settings

log = logging.getLogger(__name__)

#: the device that means each one there is
ALL = "all"
#: seconds between two looks at the workers
_LOOK = 0.2
#: seconds beyond ``drain_seconds`` that workers get to end
_GRACE = 10.0


def devices() -> list[str]:
    """Every GPU of this machine, or the one device there is without any, as ``QANVAS_DEVICE`` names them.

    A process of its own finds out: torch stays out of this one. Raises ConfigurationError."""
    program: list[str | Path] = [sys.executable, "-P", "-m", "worker.kiln.devices"]
    found = subprocess.run(program, capture_output=True, text=True, check=False)
    if found.returncode or not found.stdout.split():
        last = (found.stderr.strip().splitlines() or ["no answer"])[-1]
        raise ConfigurationError(
            f"cannot tell which devices there are: {last}; install it with pip install 'qanvas[worker]', "
            "or name one with --device"
        )
    return found.stdout.split()


@dataclass
class _Worker:
    device: str
    process: subprocess.Popen[bytes] | None = None
    restarts: Restarts = field(default_factory=Restarts)


def run_each(settings: Settings, names: Sequence[str]) -> None:
    """Run a worker on each device until this process is told to stop; then wait until they have left."""
    workers, complaints = [_Worker(name) for name in names], Complaints()
    try:
        with stopping() as request:
            while not request.asked:
                for worker in workers:
                    with complaints.survive(f"start the worker on {worker.device}"):
                        _tend(worker, settings)
                time.sleep(_LOOK)
    except Stopped:
        pass
    finally:
        running = [worker.process for worker in workers if worker.process is not None]
        children.stop(running, grace=settings.drain_seconds + _GRACE)


def _tend(worker: _Worker, settings: Settings) -> None:
    now = time.monotonic()
    if worker.process is not None and (status := worker.process.poll()) is not None:
        children.signal_group(worker.process.pid, signal.SIGKILL)  # what it started itself goes with it
        worker.process, wait = None, worker.restarts.died(now)
        log.warning("the worker on %s ended (%s); again in %.0f s", worker.device, why(status), wait)
    if worker.process is None and now >= worker.restarts.due:
        worker.restarts.begin(now)
        try:
            with undisturbed():
                worker.process = _start(settings.with_(device=worker.device))
        except OSError:
            worker.restarts.died(now)
            raise


def _start(settings: Settings) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cli.main", "worker"],
        env={**os.environ, **settings.as_env()},
        process_group=0,
        preexec_fn=children.die_with_parent(),  # noqa: PLW1509 - two system calls, no lock is taken
    )
