"""API keys, and the limits of tenants."""

from __future__ import annotations

import sqlalchemy as sa

from shared.db.tables.base import Id, Json, Name, metadata

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("tenant", Name, nullable=False),
    sa.Column("name", Name, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("scopes", Json, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("last_used_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
)

#: facts about the whole database that hold once they were noted
marks = sa.Table(
    "marks",
    metadata,
    sa.Column("name", Name, primary_key=True),
    sa.Column("since", sa.Double, nullable=False),
)

#: what an operator set for a tenant; a limit that is null is as the settings say, 0 is no limit
tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("name", Name, primary_key=True),
    sa.Column("requests", sa.Integer),
    sa.Column("submissions", sa.Integer),
    sa.Column("queued", sa.Integer),
    sa.Column("running", sa.Integer),
    sa.Column("storage_bytes", sa.BigInteger),
    # of ``fair_queueing``; null is 1
    sa.Column("weight", sa.Double),
)
