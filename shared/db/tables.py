"""The tables. Times are seconds since 1970 (float), sizes are bytes."""

from __future__ import annotations

import sqlalchemy as sa

from shared.states import GOING_ON, TERMINAL, Status

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

_Json = sa.JSON(none_as_null=True)
_Id = sa.String(40)
_Name = sa.String(255)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("tenant", _Name, nullable=False),
    sa.Column("task", _Name, nullable=False),
    sa.Column("model", _Name, nullable=False),
    sa.Column("queue", _Name, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    # the virtual start tag of ``shares``: the order within a queue and a priority; null until first queued
    sa.Column("tag", sa.Double),
    # of ``caps``: queued, and out of the index of claims while its tenant has as much running as it may
    sa.Column("aside", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("input", _Json, nullable=False),
    sa.Column("metadata", _Json, nullable=False),
    sa.Column("webhook", _Json),
    sa.Column("group_name", _Name),
    sa.Column("idempotency_key", _Name),
    sa.Column("fingerprint", sa.String(64)),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("timeout", sa.Double),
    sa.Column("worker", _Id),
    sa.Column("lease_until", sa.Double),
    sa.Column("cancel_requested_at", sa.Double),
    sa.Column("progress", _Json),
    # which folder below ``checkpoints/ID/`` a later attempt goes on from; null where there is none
    sa.Column("checkpoint", sa.String(64)),
    sa.Column("result", _Json),
    sa.Column("error", _Json),
    sa.Column("traceback", sa.Text),
    sa.Column("load_seconds", sa.Double),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("run_at", sa.Double),
    sa.Column("due_at", sa.Double),
    sa.Column("depends_on", _Json),
    sa.Column("waits_for", sa.Integer, nullable=False, server_default="0"),
    # the job that tries this one again, the last one where there are several
    sa.Column("retried_as", _Id),
    sa.Column("awaited", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("expires_at", sa.Double),
    sa.Column("queued_at", sa.Double),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
)


def not_expired() -> sa.ColumnElement[bool]:
    """The job may still start at the bound parameter ``the_time``, in seconds since 1970."""
    return sa.or_(jobs.c.expires_at.is_(None), jobs.c.expires_at > sa.bindparam("the_time"))


def status_in(*statuses: Status) -> sa.ColumnElement[bool]:
    """``status`` is one of these, written as literals: a planner proves a partial index by them, never by
    bound parameters."""
    literals: list[sa.ColumnElement[str]] = [
        sa.literal_column(f"'{status.value}'") for status in sorted(statuses)
    ]
    return jobs.c.status == literals[0] if len(literals) == 1 else jobs.c.status.in_(literals)


#: the status that clients see: a job that waits for its next attempt is ``queued`` to them
shown_status: sa.ColumnElement[str] = sa.case(
    (sa.and_(status_in(Status.SCHEDULED), jobs.c.attempt > 0), Status.QUEUED.value), else_=jobs.c.status
)

#: has not ended
going_on = status_in(*GOING_ON)
_queued = status_in(Status.QUEUED)
#: queued, and where claims see it
claimable: sa.ColumnElement[bool] = sa.and_(_queued, sa.literal_column("NOT aside"))
parked: sa.ColumnElement[bool] = sa.and_(_queued, sa.literal_column("aside"))
_running = status_in(Status.RUNNING)
#: needs no other job's end any more
ready: sa.ColumnElement[bool] = sa.literal_column("waits_for = 0")
_due = sa.and_(status_in(Status.SCHEDULED), ready)
#: ended other than well
ended_badly = status_in(*TERMINAL - {Status.SUCCEEDED})
#: ended, and what waits for it has not heard of it yet
unsettled = sa.and_(sa.literal_column("awaited"), status_in(*TERMINAL))
_waiting_with_expiry = sa.and_(status_in(Status.QUEUED, Status.SCHEDULED), jobs.c.expires_at.is_not(None))
sa.Index(
    "ix_jobs_claim",
    jobs.c.queue,
    jobs.c.priority.desc(),
    jobs.c.tag,
    jobs.c.id,
    sqlite_where=claimable,
    postgresql_where=claimable,
)
# with the status, which all have: else SQLite may take ``ix_jobs_tenant``, which looks as good to it
sa.Index(
    "ix_jobs_aside",
    jobs.c.status,
    jobs.c.tenant,
    jobs.c.queue,
    sqlite_where=parked,
    postgresql_where=parked,
)
sa.Index("ix_jobs_running", jobs.c.status, jobs.c.tenant, sqlite_where=_running, postgresql_where=_running)
sa.Index("ix_jobs_lease", jobs.c.lease_until, sqlite_where=_running, postgresql_where=_running)
sa.Index("ix_jobs_due", jobs.c.due_at, sqlite_where=_due, postgresql_where=_due)
sa.Index(
    "ix_jobs_expiry",
    jobs.c.expires_at,
    sqlite_where=_waiting_with_expiry,
    postgresql_where=_waiting_with_expiry,
)
sa.Index("ix_jobs_unsettled", jobs.c.id, sqlite_where=unsettled, postgresql_where=unsettled)
_dead = status_in(Status.FAILED)
sa.Index("ix_jobs_dead", jobs.c.tenant, jobs.c.id, sqlite_where=_dead, postgresql_where=_dead)
#: has failed, and nobody has tried it again yet
untried: sa.ColumnElement[bool] = sa.and_(_dead, sa.literal_column("retried_as IS NULL"))
sa.Index("ix_jobs_untried", jobs.c.tenant, jobs.c.id, sqlite_where=untried, postgresql_where=untried)
# of ``counting``
sa.Index("ix_jobs_ended_badly", jobs.c.status, sqlite_where=ended_badly, postgresql_where=ended_badly)
sa.Index("ix_jobs_tenant", jobs.c.tenant, jobs.c.id)
#: what counts against a tenant's limit of waiting jobs
waiting = status_in(Status.QUEUED, Status.SCHEDULED)
sa.Index(
    "ix_jobs_waiting",
    jobs.c.tenant,
    jobs.c.status,
    jobs.c.queue,
    jobs.c.priority.desc(),
    jobs.c.tag,
    jobs.c.id,
    sqlite_where=waiting,
    postgresql_where=waiting,
)
_grouped = jobs.c.group_name.is_not(None)
sa.Index(
    "ix_jobs_group",
    jobs.c.tenant,
    jobs.c.group_name,
    jobs.c.id,
    sqlite_where=_grouped,
    postgresql_where=_grouped,
)
_keyed = jobs.c.idempotency_key.is_not(None)
sa.Index(
    "uq_jobs_idempotency",
    jobs.c.tenant,
    jobs.c.idempotency_key,
    unique=True,
    sqlite_where=_keyed,
    postgresql_where=_keyed,
)

#: one row for each attempt that has ended other than well
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("job_id", _Id, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("worker", _Id),
    sa.Column("host", _Name),
    sa.Column("started_at", sa.Double),
    sa.Column("ended_at", sa.Double, nullable=False),
    sa.Column("how", sa.String(16), nullable=False),
    sa.Column("error", _Json),
    sa.Column("traceback", sa.Text),
)

#: one row for each job that another depends on; ``met``: it has ended, and the other has heard of it
dependencies = sa.Table(
    "dependencies",
    metadata,
    sa.Column("job_id", _Id, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("needs", _Id, primary_key=True),
    sa.Column("met", sa.Boolean, nullable=False),
)
sa.Index("ix_dependencies_needs", dependencies.c.needs, dependencies.c.met)

outputs = sa.Table(
    "outputs",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("job_id", _Id, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    sa.Column("index", sa.Integer, nullable=False),
    sa.Column("media_type", _Name, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("width", sa.Integer),
    sa.Column("height", sa.Integer),
    sa.Column("key", sa.Text, nullable=False),
    sa.UniqueConstraint("job_id", "index"),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("tenant", _Name, nullable=False),
    sa.Column("filename", _Name, nullable=False),
    sa.Column("purpose", _Name, nullable=False),
    sa.Column("media_type", _Name, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)
sa.Index("ix_files_tenant", files.c.tenant, files.c.id)
sa.Index("ix_files_key", files.c.key)

#: the files, outputs and jobs that a job's input names, so that retention leaves them alone
job_inputs = sa.Table(
    "job_inputs",
    metadata,
    sa.Column("job_id", _Id, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("reference", _Id, primary_key=True),
)
sa.Index("ix_job_inputs_reference", job_inputs.c.reference)

#: webhooks on their way; one for a deleted job is delivered all the same
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("tenant", _Name, nullable=False),
    sa.Column("job_id", _Id, nullable=False),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("host", _Name, nullable=False),
    sa.Column("secret", sa.Text),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Double, nullable=False),
    sa.Column("give_up_at", sa.Double, nullable=False),
    sa.Column("last_status", sa.Integer),
    sa.Column("last_error", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
)
delivery_pending = deliveries.c.status == sa.literal_column("'pending'")
# of ``receivers``; with one over the time alone a planner would walk through one tenant's to find another's
sa.Index(
    "ix_deliveries_tenant",
    deliveries.c.tenant,
    deliveries.c.next_at,
    sqlite_where=delivery_pending,
    postgresql_where=delivery_pending,
)
sa.Index(
    "ix_deliveries_receiver",
    deliveries.c.tenant,
    deliveries.c.host,
    deliveries.c.next_at,
    sqlite_where=delivery_pending,
    postgresql_where=delivery_pending,
)
delivery_dead = deliveries.c.status == sa.literal_column("'dead'")
sa.Index(
    "ix_deliveries_dead",
    deliveries.c.ended_at,
    sqlite_where=delivery_dead,
    postgresql_where=delivery_dead,
)
sa.Index("ix_deliveries_job", deliveries.c.job_id)
sa.Index("ix_deliveries_ended", deliveries.c.ended_at)

webhook_secrets = sa.Table(
    "webhook_secrets",
    metadata,
    sa.Column("tenant", _Name, primary_key=True),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("tenant", _Name, primary_key=True),
    sa.Column("id", _Name, primary_key=True),
    sa.Column("job_id", _Id, nullable=False),
    sa.Column("entry", _Json, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("host", _Name, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("device", _Name, nullable=False),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("queues", _Json, nullable=False),
    sa.Column("models", _Json, nullable=False),
    sa.Column("loading", _Name),
    sa.Column("memory", _Json, nullable=False),
    sa.Column("pace", _Json),
    sa.Column("forwards", _Json, nullable=False, server_default="{}"),
    sa.Column("trouble", sa.Text),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("last_seen", sa.Double, nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("tenant", _Name, nullable=False),
    sa.Column("name", _Name, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("scopes", _Json, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("last_used_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
)

#: facts about the whole database that hold once they were noted
marks = sa.Table(
    "marks",
    metadata,
    sa.Column("name", _Name, primary_key=True),
    sa.Column("since", sa.Double, nullable=False),
)

# Of the limits, what is null is as the settings say; 0 is no limit.
tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("name", _Name, primary_key=True),
    sa.Column("requests", sa.Integer),
    sa.Column("submissions", sa.Integer),
    sa.Column("queued", sa.Integer),
    sa.Column("running", sa.Integer),
    sa.Column("storage_bytes", sa.BigInteger),
    # of ``shares``; null is 1
    sa.Column("weight", sa.Double),
)

# Both are explained in ``shares``: where a tenant's next job goes, and how far the claims of a queue are.
shares = sa.Table(
    "shares",
    metadata,
    sa.Column("queue", _Name, primary_key=True),
    sa.Column("priority", sa.SmallInteger, primary_key=True),
    sa.Column("tenant", _Name, primary_key=True),
    sa.Column("finish", sa.Double, nullable=False),
)

clocks = sa.Table(
    "clocks",
    metadata,
    sa.Column("queue", _Name, primary_key=True),
    sa.Column("priority", sa.SmallInteger, primary_key=True),
    sa.Column("virtual", sa.Double, nullable=False),
    # of ``affinity``: claims out of turn since the last one in turn, and when the first of them was
    sa.Column("overtakes", sa.Integer, nullable=False),
    sa.Column("overtaken_since", sa.Double),
)

locks = sa.Table(
    "locks",
    metadata,
    sa.Column("name", _Name, primary_key=True),
    sa.Column("holder", _Id, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
)
