"""A new job like an ended one, which waits for the retries of those that the old one waited for in vain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.db.tables import jobs
from shared.errors import Conflict
from shared.jobs.entities import Job, JobSpec, NewJob
from shared.jobs.references import is_reference
from shared.states import TERMINAL, Status

#: retries of retries that are followed, with one query for each
MAX_RETRIES = 1000


def job_like(connection: Connection, old: Job) -> NewJob:
    """The job to submit to try ``old`` again, due at once. Raises Conflict where it would fail at once,
    naming the job to retry before it."""
    newest = _newest(connection, old)
    known = {field.name: getattr(old, field.name) for field in fields(JobSpec)}
    changed = {
        "input": {name: _renamed(value, newest) for name, value in old.input.items()},
        "depends_on": tuple(newest[job_id] for job_id in old.depends_on),
        "metadata": {**old.metadata, "retry_of": old.id},
        "run_at": None,
    }
    return NewJob(**known | changed)


def _newest(connection: Connection, old: Job) -> Mapping[str, str]:
    """For each job that the old one depends on its id, or that of its last retry where it ended badly."""
    newest = {job_id: job_id for job_id in old.depends_on}
    looked_at: Sequence[str] = old.depends_on
    steps = 0
    while looked_at:  # a retry of a retry of …, each newer than the one before
        if (steps := steps + 1) > MAX_RETRIES:
            raise Conflict(
                f"job {old.id} depends on a job that was retried more than {MAX_RETRIES} times, each retry "
                "retried again; submit a new job"
            )
        look = sa.select(jobs.c.id, jobs.c.status, jobs.c.retried_as)
        mine = look.where(jobs.c.id.in_(looked_at), jobs.c.tenant == old.tenant)
        found = {row.id: row for row in connection.execute(mine)}
        later: dict[str, str] = {}
        for needed in looked_at:
            other = found.get(needed)
            if other is None:
                raise Conflict(
                    f"job {old.id} depends on {needed}, which does not exist any more; submit a new job"
                )
            if Status(other.status) not in TERMINAL - {Status.SUCCEEDED}:
                continue
            if other.retried_as is None:
                raise Conflict(
                    f"job {old.id} depends on {needed}, which is {other.status}; retry that one first, "
                    f"with POST /v1/jobs/{needed}/retry, then this one waits for its retry"
                )
            later[needed] = other.retried_as
        newest = {job_id: later.get(now, now) for job_id, now in newest.items()}
        looked_at = tuple(dict.fromkeys(later.values()))
    return newest


def _renamed(value: Any, newest: Mapping[str, str]) -> Any:
    """A value of an input, with the jobs whose outputs it names replaced."""
    if is_reference(value) and isinstance(value["job"], str):
        return {**value, "job": newest.get(value["job"], value["job"])}
    if isinstance(value, list):
        return [_renamed(item, newest) for item in value]
    if isinstance(value, dict):
        return {name: _renamed(item, newest) for name, item in value.items()}
    return value
