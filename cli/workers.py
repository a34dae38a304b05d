"""One worker process for each device of this machine, started, restarted and ended together."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.embedded import children
from cli.signals import Stopped, stopping
from shared.errors import ConfigurationError
from shared.settings import Settings

log = logging.getLogger(__name__)

#: the device that means each one there is
ALL = "all"
#: seconds between two looks at the workers, and until one that ended is started again
_LOOK, _AGAIN = 0.2, 5.0
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
    due: float = 0.0


def run_each(settings: Settings, names: Sequence[str]) -> None:
    """Run a worker on each device until this process is told to stop; then wait until they have left."""
    workers = [_Worker(name) for name in names]
    try:
        with stopping() as request:
            while not request.asked:
                for worker in workers:
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
        log.warning("the worker on %s ended with status %d; again in %.0f s", worker.device, status, _AGAIN)
        worker.process, worker.due = None, now + _AGAIN
    if worker.process is None and now >= worker.due:
        worker.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli.main", "worker"],
            env={**os.environ, **settings.with_(device=worker.device).as_env()},
            process_group=0,
            preexec_fn=children.die_with_parent(),  # noqa: PLW1509 - two system calls, no lock is taken
        )
