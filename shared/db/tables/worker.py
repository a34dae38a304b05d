"""Workers, and the named locks that they hold."""

from __future__ import annotations

import sqlalchemy as sa

from shared.db.tables.base import Id, Json, Name, metadata

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("host", Name, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("device", Name, nullable=False),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("queues", Json, nullable=False),
    sa.Column("models", Json, nullable=False),
    sa.Column("loading", Name),
    sa.Column("memory", Json, nullable=False),
    sa.Column("pace", Json),
    sa.Column("forwards", Json, nullable=False, server_default="{}"),
    sa.Column("trouble", sa.Text),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("last_seen", sa.Double, nullable=False),
)

locks = sa.Table(
    "locks",
    metadata,
    sa.Column("name", Name, primary_key=True),
    sa.Column("holder", Id, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
)
