"""The only code that changes a job's status: an UPDATE that the transition table guards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Row

from shared.chunks import in_chunks
from shared.db import dialects
from shared.db.engine import Database
from shared.db.tables import jobs, not_expired, status_in
from shared.jobs import notifications
from shared.jobs.rows import to_job
from shared.states import TERMINAL, TRANSITIONS, Status, Transition

#: attempts in one statement
_MAX_TOGETHER = 64


def apply(
    connection: Connection,
    step: str,
    *where: sa.ColumnElement[bool],
    now: float,
    fence: int | None = None,
    **values: Any,
) -> list[Row[Any]]:
    """Take every job that ``where`` names through one step; returns the rows that moved.

    A fenced step moves only the attempt that ``fence`` gives. What a state implies for other columns
    (the lease, the times) is written here, so that no caller can forget it.
    """
    transition = TRANSITIONS[step]
    guard = [status_in(*transition.sources), *where]
    if transition.fenced:
        if fence is None:
            raise TypeError(f"the step {step!r} needs the attempt it belongs to")
        guard.append(jobs.c.attempt == fence)
    statement = sa.update(jobs).where(*guard).values(**(_implied(transition, now) | values)).returning(jobs)
    return _notified(connection, list(connection.execute(statement)), now)


def apply_to_one(
    connection: Connection, step: str, job_id: str, *, now: float, fence: int, **values: Any
) -> Row[Any] | None:
    """Take one attempt through a fenced step: the row, or None when it did not move. ``values`` are plain.

    The same as ``apply``, for the path of every job: there, building a statement costs several times as much
    as executing it, so each is built once. The caller appends the events to the outbox, once the outputs have
    ids.
    """
    given = {f"new_{name}": value for name, value in values.items()}
    statement = _statement_for_one(step, tuple(values))
    return connection.execute(
        statement, {"the_job": job_id, "the_attempt": fence, "the_time": now, **given}
    ).one_or_none()


def apply_to_many(
    connection: Connection, step: str, ends: Mapping[tuple[str, int], Mapping[str, Any]], *, now: float
) -> Sequence[Row[Any]]:
    """Take several attempts through a fenced step in one statement: the rows that moved.

    ``ends``: for each job and attempt the same columns. Where other writers of several rows may meet it, the
    caller locks the rows before."""
    columns = tuple(next(iter(ends.values())))
    moved: list[Row[Any]] = []
    for some in in_chunks(ends, _MAX_TOGETHER):
        given: dict[str, Any] = {"the_time": now}
        for number, attempt in enumerate(some):
            given |= {f"job_{number}": attempt[0], f"attempt_{number}": attempt[1]}
            given |= {f"{name}_{number}": ends[attempt][name] for name in columns}
        moved += connection.execute(_statement_for_many(step, columns, len(some)), given)
    return moved


@cache
def _statement_for_one(step: str, columns: tuple[str, ...]) -> sa.Executable:
    transition = TRANSITIONS[step]
    if not transition.fenced:
        raise TypeError(f"the step {step!r} belongs to no attempt")
    return (
        sa.update(jobs)
        .where(
            status_in(*transition.sources),
            jobs.c.id == sa.bindparam("the_job"),
            jobs.c.attempt == sa.bindparam("the_attempt"),
        )
        .values(
            **_implied(transition, sa.bindparam("the_time")),
            **{name: sa.bindparam(f"new_{name}") for name in columns},
        )
        .returning(jobs)
    )


@lru_cache(maxsize=128)
def _statement_for_many(step: str, columns: tuple[str, ...], count: int) -> sa.Executable:
    transition = TRANSITIONS[step]
    if not transition.fenced:
        raise TypeError(f"the step {step!r} belongs to no attempt")
    given = sa.union_all(*(_end(columns, number) for number in range(count))).subquery("given")
    # as a case no planner proves a partial index by it: they are to be found by their ids, not among all that
    # run, and that have run since the last vacuum
    guard = sa.case((status_in(*transition.sources), sa.true()), else_=sa.false())
    return (
        sa.update(jobs)
        .where(guard, jobs.c.id == given.c.job, jobs.c.attempt == given.c.attempt)
        .values(
            **_implied(transition, sa.bindparam("the_time")),
            **{name: given.c[f"new_{name}"] for name in columns},
        )
        .returning(jobs)
    )


def _end(columns: tuple[str, ...], number: int) -> sa.Select[Any]:
    """One of several attempts, as a row."""
    return sa.select(
        _bound(f"job_{number}", jobs.c.id).label("job"),
        _bound(f"attempt_{number}", jobs.c.attempt).label("attempt"),
        *(_bound(f"{name}_{number}", jobs.c[name]).label(f"new_{name}") for name in columns),
    )


def _bound(name: str, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    bound: sa.BindParameter[Any] = sa.bindparam(name, type_=column.type)
    # PostgreSQL would take a float that is null for text; SQLAlchemy itself says what the others are
    return sa.cast(bound, column.type) if isinstance(column.type, sa.Double) else bound


def claim(
    database: Database,
    connection: Connection,
    ids: Sequence[str],
    limit: int,
    now: float,
    *,
    worker: str,
    lease_seconds: float,
) -> list[Row[Any]]:
    """Give up to ``limit`` of these queued jobs to a worker, the first that nobody else is taking.

    Returns the rows that moved. The statement is built once, as above."""
    given: dict[str, Any] = {"the_time": now, "new_worker": worker, "new_lease": now + lease_seconds}
    if database.is_server:
        given |= {"the_jobs": list(ids), "most": limit}
    else:  # one writer at a time: nobody else is taking any
        given |= {"the_jobs": ids[:limit]}
    return _notified(connection, list(connection.execute(_statement_for_claim(database.dialect), given)), now)


def _notified(connection: Connection, moved: list[Row[Any]], now: float) -> list[Row[Any]]:
    """The rows, once the outbox has the events of their step that clients asked for."""
    if watched := [to_job(row) for row in moved if row.webhook is not None]:
        notifications.append(connection, watched, now)
    return moved


@cache
def _statement_for_claim(dialect: str) -> sa.Executable:
    transition = TRANSITIONS["claim"]
    now: sa.BindParameter[float] = sa.bindparam("the_time")
    ready = [status_in(*transition.sources), not_expired()]
    if dialect == "postgresql":
        wanted: sa.BindParameter[Any] = sa.bindparam("the_jobs", type_=postgresql.ARRAY(sa.String))
        free = (
            sa.select(jobs.c.id)
            .where(*ready, jobs.c.id == sa.any_(wanted))
            .order_by(sa.func.array_position(wanted, jobs.c.id))
            .limit(sa.bindparam("most"))
        )
        these = dialects.in_array(jobs.c.id, dialects.skip_locked(dialect, free))
    else:
        these = jobs.c.id.in_(sa.bindparam("the_jobs", expanding=True))
    return (
        sa.update(jobs)
        .where(*ready, these)
        .values(
            **_implied(transition, now),
            attempt=jobs.c.attempt + 1,
            attempts=jobs.c.attempts + 1,
            worker=sa.bindparam("new_worker"),
            lease_until=sa.bindparam("new_lease"),
            started_at=now,
            error=None,
        )
        .returning(jobs)
    )


def _implied(transition: Transition, now: object) -> dict[str, Any]:
    """What the new state means for other columns."""
    implied: dict[str, Any] = {"status": transition.target.value}
    if Status.QUEUED in transition.sources:
        implied |= {"aside": False}
    if Status.RUNNING in transition.sources:
        implied |= {"lease_until": None, "progress": None}
    if transition.target is Status.QUEUED:
        implied |= {"queued_at": now, "worker": None, "due_at": None}
    if transition.target is Status.SCHEDULED:
        implied |= {"worker": None}
    if transition.target in TERMINAL:
        implied |= {"finished_at": now, "checkpoint": None}
    return implied
