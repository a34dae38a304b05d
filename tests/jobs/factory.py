"""Jobs to put into a store under test."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from shared.db.engine import Database
from shared.jobs import transitions
from shared.jobs.entities import Job, NewJob, NewOutput, Submitted
from shared.jobs.scheduling.claims import Take
from shared.jobs.store import JobStore


def new_job(**changes: Any) -> NewJob:
    known: dict[str, Any] = {
        "tenant": "default",
        "task": "text-to-image",
        "model": "fake",
        "queue": "default",
        "input": {"prompt": "a red apple", "seed": 1},
    }
    return NewJob(**known | changes)


def submit(store: JobStore, **changes: Any) -> Job:
    [submitted] = store.submit([new_job(**changes)])
    assert isinstance(submitted, Submitted)
    return submitted.job


def taking(database: Database, connection: Connection) -> Take:
    """What gives jobs to a worker, as leases hand it to a claim."""
    return partial(transitions.claim, database, connection, worker="wrk_1", lease_seconds=30.0)


def new_output(index: int = 0) -> NewOutput:
    return NewOutput(
        index=index,
        media_type="image/png",
        bytes=10,
        sha256="0" * 64,
        key=f"outputs/x/{index}.png",
        facts={"width": 8, "height": 8},
    )
