"""The worker process: Celery brings tickets, everything else is ours."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import warnings
from typing import Any

from celery import signals
from celery.exceptions import SecurityWarning

from shared.jobs.entities import TRAINING_QUEUE
from shared.messaging.tickets import make_celery
from shared.settings import Settings
from worker.celery.pool import TicketWorker
from worker.celery.ticket_task import register_ticket_task
from worker.container import WorkerContainer
from worker.kiln.cpu_threads import spin_briefly

#: steps of niceness between the kiln's threads and all others, which get a quarter of a core that both want
_BEHIND = 5


def run_worker(settings: Settings, *, name: str | None = None) -> int:
    """Run jobs until SIGTERM or SIGINT; returns the exit status. ``name`` is the worker's id.

    Prints one line that begins with ``ready`` when it takes jobs. The first signal lets running jobs end
    within ``drain_seconds``; what does not is handed back with a checkpoint. The second signal hands back at
    once. Main thread only. Raises ConfigurationError.
    """
    _log_to_stderr(settings.log_level)
    spin_briefly()
    container = WorkerContainer(settings, name)
    _step_behind_the_kiln()
    app = make_celery(settings)
    register_ticket_task(app, container.runner.ticket)

    def ready() -> None:
        container.open()
        queues = ", ".join(settings.queues)
        sys.stdout.write(
            f"ready worker {container.id} on {container.device}, {settings.slots} slots, queues {queues}\n"
        )
        sys.stdout.flush()

    # training runs beside the slots: see Runner
    mixed = TRAINING_QUEUE in settings.queues and len(settings.queues) > 1
    worker = TicketWorker(
        app,
        ready=ready,
        leave=lambda hurry: container.runner.leave(settings.drain_seconds, hurry),
        hostname=f"{container.id}@{socket.gethostname()}",
        concurrency=settings.slots + mixed,
        loglevel=settings.log_level,
    )
    container.runner.retired = worker.retire
    try:
        worker.start()
    finally:
        container.close()
        # the interpreter gives signals their default back while it ends: a second one would kill it then
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    return int(worker.exitcode or 0)


def _step_behind_the_kiln() -> None:
    """This thread, and those that it starts, shall compute where the kiln's leave something.

    A forward has a thread on every core, and they wait for each other: one that is set aside for a moment,
    for a claim or a picture to encode, holds up them all."""
    if sys.platform == "linux":  # where a priority is one thread's
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + _BEHIND)


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # a line for each ticket says nothing that the job's row does not, nor one for each plugin anything
    for chatty in ("celery", "alembic"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    # tickets are JSON: that a worker runs as root, as in a container, opens no door
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.setup_logging.connect(_keep_logging, weak=False)


def _keep_logging(**_: Any) -> None:
    """Being connected is enough: Celery leaves logging alone then."""
