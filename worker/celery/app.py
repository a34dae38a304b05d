"""The Celery app, for Celery's own tools: ``celery -A worker.celery.app inspect active``.

Importing this module reads the settings, as those tools want an app to be there: no other module does so.
Workers are started by ``qanvas worker``, which brings the kiln and all that is beside it.
"""

from __future__ import annotations

import sys
from typing import Any

from celery import signals

from shared.messaging.tickets import make_celery
from shared.settings import SETTINGS, Settings

_DEFAULT_REDIS = next(setting.default for setting in SETTINGS if setting.name == "redis_url")


def _settings() -> Settings:
    """Those of the environment; where no Redis is named, what ``qanvas up`` keeps in the data folder."""
    settings = Settings.from_env()
    socket = settings.data / "valkey" / "valkey.sock"
    if settings.redis_url == _DEFAULT_REDIS and socket.exists():
        return settings.with_(redis_url=f"redis+socket://{socket}")
    return settings


def _refuse(**_: Any) -> None:
    sys.exit("start workers with: qanvas worker; `celery worker` would take tickets and run no jobs")


app = make_celery(_settings())
signals.celeryd_init.connect(_refuse, weak=False)
