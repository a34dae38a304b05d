"""Trained models."""

from __future__ import annotations

import sqlalchemy as sa

from shared.db.tables.base import Id, Json, Name, metadata

models = sa.Table(
    "models",
    metadata,
    sa.Column("tenant", Name, primary_key=True),
    sa.Column("id", Name, primary_key=True),
    sa.Column("job_id", Id, nullable=False),
    sa.Column("entry", Json, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)
