"""Jobs, their attempts, dependencies and outputs, and the conditions that their indexes are made for."""

from __future__ import annotations

import sqlalchemy as sa

from shared.db.tables.base import Id, Json, Name, metadata, partial_index
from shared.states import GOING_ON, TERMINAL, Status

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("tenant", Name, nullable=False),
    sa.Column("task", Name, nullable=False),
    sa.Column("model", Name, nullable=False),
    sa.Column("queue", Name, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    # the start tag of ``fair_queueing``: the order within a queue and a priority; null until first queued
    sa.Column("tag", sa.Double),
    # parked: queued, and not in the index of claims while its tenant runs as many jobs as it may, see
    # ``concurrency_limits``
    sa.Column("aside", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("input", Json, nullable=False),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("webhook", Json),
    sa.Column("group_name", Name),
    sa.Column("idempotency_key", Name),
    sa.Column("fingerprint", sa.String(64)),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("timeout", sa.Double),
    sa.Column("worker", Id),
    sa.Column("lease_until", sa.Double),
    sa.Column("cancel_requested_at", sa.Double),
    sa.Column("progress", Json),
    # which folder below ``checkpoints/ID/`` a later attempt goes on from; null where there is none
    sa.Column("checkpoint", sa.String(64)),
    sa.Column("result", Json),
    sa.Column("error", Json),
    sa.Column("traceback", sa.Text),
    sa.Column("load_seconds", sa.Double),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("run_at", sa.Double),
    sa.Column("due_at", sa.Double),
    sa.Column("depends_on", Json),
    sa.Column("waits_for", sa.Integer, nullable=False, server_default="0"),
    # the job that retries this one, the last one where there are several
    sa.Column("retried_as", Id),
    sa.Column("awaited", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("expires_at", sa.Double),
    sa.Column("queued_at", sa.Double),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
)


def status_in(*statuses: Status) -> sa.ColumnElement[bool]:
    """``status`` is one of these, written as literals: a planner proves a partial index by them, never by
    bound parameters."""
    literals: list[sa.ColumnElement[str]] = [
        sa.literal_column(f"'{status.value}'") for status in sorted(statuses)
    ]
    return jobs.c.status == literals[0] if len(literals) == 1 else jobs.c.status.in_(literals)


def not_expired() -> sa.ColumnElement[bool]:
    """The job may still start at the bound parameter ``the_time``, in seconds since 1970."""
    return sa.or_(jobs.c.expires_at.is_(None), jobs.c.expires_at > sa.bindparam("the_time"))


#: the status that clients see: a job that waits for its next attempt is ``queued`` to them
shown_status: sa.ColumnElement[str] = sa.case(
    (sa.and_(status_in(Status.SCHEDULED), jobs.c.attempt > 0), Status.QUEUED.value), else_=jobs.c.status
)
#: has not ended
going_on = status_in(*GOING_ON)
#: counts against a tenant's limit of waiting jobs
waiting = status_in(Status.QUEUED, Status.SCHEDULED)
_queued = status_in(Status.QUEUED)
#: queued, and in the index that claims read
claimable: sa.ColumnElement[bool] = sa.and_(_queued, sa.literal_column("NOT aside"))
#: queued, and not in that index, since its tenant runs as many jobs as it may
parked: sa.ColumnElement[bool] = sa.and_(_queued, sa.literal_column("aside"))
#: waits for no other job's end any more
ready: sa.ColumnElement[bool] = sa.literal_column("waits_for = 0")
#: ended other than well
ended_badly = status_in(*TERMINAL - {Status.SUCCEEDED})
#: ended, and its end has not been settled for all jobs that depend on it
unsettled = sa.and_(sa.literal_column("awaited"), status_in(*TERMINAL))
_failed = status_in(Status.FAILED)
#: failed, and not retried yet
untried: sa.ColumnElement[bool] = sa.and_(_failed, sa.literal_column("retried_as IS NULL"))

_in_turn = (jobs.c.priority.desc(), jobs.c.tag, jobs.c.id)
partial_index("ix_jobs_claim", claimable, jobs.c.queue, *_in_turn)
# with the status, which all have: else SQLite may take ``ix_jobs_tenant``, which looks as good to it
partial_index("ix_jobs_aside", parked, jobs.c.status, jobs.c.tenant, jobs.c.queue)
partial_index("ix_jobs_running", status_in(Status.RUNNING), jobs.c.status, jobs.c.tenant)
partial_index("ix_jobs_lease", status_in(Status.RUNNING), jobs.c.lease_until)
partial_index("ix_jobs_due", sa.and_(status_in(Status.SCHEDULED), ready), jobs.c.due_at)
partial_index("ix_jobs_expiry", sa.and_(waiting, jobs.c.expires_at.is_not(None)), jobs.c.expires_at)
partial_index("ix_jobs_unsettled", unsettled, jobs.c.id)
partial_index("ix_jobs_dead", _failed, jobs.c.tenant, jobs.c.id)
partial_index("ix_jobs_untried", untried, jobs.c.tenant, jobs.c.id)
# of ``counting``
partial_index("ix_jobs_ended_badly", ended_badly, jobs.c.status)
sa.Index("ix_jobs_tenant", jobs.c.tenant, jobs.c.id)
partial_index("ix_jobs_waiting", waiting, jobs.c.tenant, jobs.c.status, jobs.c.queue, *_in_turn)
partial_index("ix_jobs_group", jobs.c.group_name.is_not(None), jobs.c.tenant, jobs.c.group_name, jobs.c.id)
partial_index(
    "uq_jobs_idempotency",
    jobs.c.idempotency_key.is_not(None),
    jobs.c.tenant,
    jobs.c.idempotency_key,
    unique=True,
)

#: one row for each attempt that has ended other than well
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("job_id", Id, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("worker", Id),
    sa.Column("host", Name),
    sa.Column("started_at", sa.Double),
    sa.Column("ended_at", sa.Double, nullable=False),
    sa.Column("how", sa.String(16), nullable=False),
    sa.Column("error", Json),
    sa.Column("traceback", sa.Text),
)

#: one row for each job that another depends on; ``met``: it has ended, and that is settled for the other
dependencies = sa.Table(
    "dependencies",
    metadata,
    sa.Column("job_id", Id, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("needs", Id, primary_key=True),
    sa.Column("met", sa.Boolean, nullable=False),
)
sa.Index("ix_dependencies_needs", dependencies.c.needs, dependencies.c.met)

outputs = sa.Table(
    "outputs",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("job_id", Id, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    sa.Column("index", sa.Integer, nullable=False),
    sa.Column("media_type", Name, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False, server_default="{}"),
    sa.UniqueConstraint("job_id", "index"),
)
