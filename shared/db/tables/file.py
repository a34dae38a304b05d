"""Uploaded files, and which files the inputs of jobs name."""

from __future__ import annotations

import sqlalchemy as sa

from shared.db.tables.base import Id, Name, metadata

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("tenant", Name, nullable=False),
    sa.Column("filename", Name, nullable=False),
    sa.Column("purpose", Name, nullable=False),
    sa.Column("media_type", Name, nullable=False),
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
    sa.Column("job_id", Id, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("reference", Id, primary_key=True),
)
sa.Index("ix_job_inputs_reference", job_inputs.c.reference)
