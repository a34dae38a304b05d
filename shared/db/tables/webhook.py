"""The outbox of webhooks, and the secrets that sign them."""

from __future__ import annotations

import sqlalchemy as sa

from shared.db.tables.base import Id, Name, metadata, partial_index

#: webhooks on their way; one for a deleted job is delivered all the same
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("tenant", Name, nullable=False),
    sa.Column("job_id", Id, nullable=False),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("host", Name, nullable=False),
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
partial_index("ix_deliveries_tenant", delivery_pending, deliveries.c.tenant, deliveries.c.next_at)
partial_index(
    "ix_deliveries_receiver", delivery_pending, deliveries.c.tenant, deliveries.c.host, deliveries.c.next_at
)
delivery_dead = deliveries.c.status == sa.literal_column("'dead'")
partial_index("ix_deliveries_dead", delivery_dead, deliveries.c.ended_at)
sa.Index("ix_deliveries_job", deliveries.c.job_id)
sa.Index("ix_deliveries_ended", deliveries.c.ended_at)

webhook_secrets = sa.Table(
    "webhook_secrets",
    metadata,
    sa.Column("tenant", Name, primary_key=True),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)
