"""The tables, by what they are about. Times are seconds since 1970 (float), sizes are bytes."""

from shared.db.tables.account import keys, marks, tenants
from shared.db.tables.base import metadata
from shared.db.tables.file import files, job_inputs
from shared.db.tables.job import (
    attempts,
    claimable,
    dependencies,
    ended_badly,
    going_on,
    jobs,
    not_expired,
    outputs,
    parked,
    ready,
    shown_status,
    status_in,
    unsettled,
    untried,
    waiting,
)
from shared.db.tables.model import models
from shared.db.tables.queue import clocks, shares
from shared.db.tables.webhook import deliveries, delivery_dead, delivery_pending, webhook_secrets
from shared.db.tables.worker import locks, workers

__all__ = [
    "attempts",
    "claimable",
    "clocks",
    "deliveries",
    "delivery_dead",
    "delivery_pending",
    "dependencies",
    "ended_badly",
    "files",
    "going_on",
    "job_inputs",
    "jobs",
    "keys",
    "locks",
    "marks",
    "metadata",
    "models",
    "not_expired",
    "outputs",
    "parked",
    "ready",
    "shares",
    "shown_status",
    "status_in",
    "tenants",
    "unsettled",
    "untried",
    "waiting",
    "webhook_secrets",
    "workers",
]
