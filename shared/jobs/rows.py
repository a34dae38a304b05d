"""Rows of ``jobs`` and ``outputs`` as records, and new jobs as rows.

A field of a record is the column of the same name, but for those listed here. So a column that a job should
have is declared twice: in ``shared/db/tables`` and in ``entities``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row, RowMapping

from shared.db.tables import jobs, outputs
from shared.ids import new_id
from shared.jobs.entities import Job, JobSpec, NewJob, Output
from shared.states import Status
from shared.webhooks.subscription import Webhook

#: by field, the columns that have another name
_RENAMED: Mapping[str, str] = {"group": "group_name", "parked": "aside"}
#: fields whose value is not the column's as it is
_CONVERTED = ("status", "depends_on", "webhook", "cancel_requested", "outputs")
#: by field, the column of each of the others
_PLAIN: Mapping[str, str] = {
    field.name: jobs.c[_RENAMED.get(field.name, field.name)].name
    for field in fields(Job)
    if field.name not in _CONVERTED
}
#: by field, the columns that a submission says
_SPEC: Mapping[str, str] = {
    field.name: _RENAMED.get(field.name, field.name)
    for field in fields(JobSpec)
    if field.name not in _CONVERTED
}
#: the columns of a job that has just been inserted and that its row does not name
_UNSET: Mapping[str, Any] = dict.fromkeys(jobs.c.keys())


def to_job(row: Row[Any], named: Sequence[Output] = ()) -> Job:
    """A row of ``jobs`` as the record, with these outputs."""
    return _job(row._mapping, named)


def inserted_job(row: Mapping[str, Any]) -> Job:
    """The record of a job whose row, as ``new_row`` makes it, has just been inserted."""
    return _job({**_UNSET, **row})


def _job(row: RowMapping | Mapping[str, Any], named: Sequence[Output] = ()) -> Job:
    return Job(
        status=Status(row["status"]),
        depends_on=tuple(row["depends_on"] or ()),
        webhook=_webhook(row["webhook"]),
        cancel_requested=row["cancel_requested_at"] is not None,
        outputs=tuple(named),
        **{field: row[column] for field, column in _PLAIN.items()},
    )


def _webhook(value: Mapping[str, Any] | None) -> Webhook | None:
    return None if value is None else Webhook(**{**value, "events": tuple(value["events"])})


def with_outputs(connection: Connection, rows: Sequence[Row[Any]]) -> list[Job]:
    """Records of the rows, each with its outputs, in the order of the rows."""
    done = [row.id for row in rows if row.status == Status.SUCCEEDED.value]
    named: dict[str, list[Output]] = {}
    if done:
        found = (
            sa.select(outputs).where(outputs.c.job_id.in_(done)).order_by(outputs.c.job_id, outputs.c.index)
        )
        for row in connection.execute(found):
            named.setdefault(row.job_id, []).append(to_output(row))
    return [to_job(row, named.get(row.id, ())) for row in rows]


def to_output(row: Row[Any]) -> Output:
    """A row of ``outputs`` as the record."""
    return Output(**row._mapping)


def new_row(new: NewJob, now: float) -> dict[str, Any]:
    """The row to insert for a new job, at the database's time ``now``: queued, or scheduled where it is not
    due yet. Its start tag is missing, and so is what it waits for."""
    scheduled = new.run_at is not None and new.run_at > now
    return {
        **{column: getattr(new, field) for field, column in _SPEC.items()},
        "id": new_id("job"),
        "status": Status.SCHEDULED.value if scheduled else Status.QUEUED.value,
        "tag": None,
        "aside": False,
        "input": dict(new.input),
        "metadata": dict(new.metadata),
        "webhook": None if new.webhook is None else asdict(new.webhook),
        "idempotency_key": new.idempotency_key,
        "fingerprint": new.fingerprint,
        "attempt": 0,
        "attempts": 0,
        "created_at": now,
        "due_at": new.run_at if scheduled else None,
        "expires_at": None if new.expires_in is None else now + new.expires_in,
        "queued_at": None if scheduled else now,
        "depends_on": list(dict.fromkeys(new.depends_on)) or None,
        "waits_for": 0,
        "awaited": False,
    }
