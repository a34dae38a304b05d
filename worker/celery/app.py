"""The app for Celery's own commands: ``celery -A worker.celery.app status``, ``inspect active``, ``flower``.

Importing this module reads the settings from the environment, because those commands import an app by name.
"""

from __future__ import annotations

from typing import Any

from celery import signals

from shared.errors import ConfigurationError
from shared.messaging.embedded_address import address_in
from shared.messaging.tickets import make_celery
from shared.settings import Settings
from worker.celery.pool import TicketWorker
from worker.celery.ticket_task import register_ticket_task


def _refuse_ticket(_queue: str, _claimed: object) -> None:
    raise ConfigurationError("this process runs no jobs; start workers with: qanvas worker")


def _refuse_worker(instance: Any, **_: Any) -> None:
    """``celery worker`` would take tickets and run no jobs: it has neither a device nor a lease keeper."""
    if not isinstance(instance, TicketWorker):
        raise SystemExit("celery worker runs no jobs; start workers with: qanvas worker")


def _settings() -> Settings:
    """Those of the environment; where no Redis is named, what ``qanvas up`` keeps in the data folder."""
    settings = Settings.from_env()
    address = address_in(settings.data / "valkey")
    if not settings.has_own_redis and address.socket is not None and address.socket.exists():
        return settings.with_(redis_url=address.url)
    return settings


app = make_celery(_settings())
register_ticket_task(app, _refuse_ticket)
signals.celeryd_init.connect(_refuse_worker, weak=False)
