"""fair shares"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_QUEUED = sa.text("status = 'queued'")


def upgrade() -> None:
    op.create_table(
        "shares",
        sa.Column("queue", sa.String(length=255), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("tenant", sa.String(length=255), nullable=False),
        sa.Column("finish", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "priority", "tenant", name=op.f("pk_shares")),
    )
    op.create_table(
        "clocks",
        sa.Column("queue", sa.String(length=255), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("virtual", sa.Double(), nullable=False),
        sa.Column("overtakes", sa.Integer(), nullable=False),
        sa.Column("overtaken_since", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("queue", "priority", name=op.f("pk_clocks")),
    )
    op.add_column("workers", sa.Column("pace", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("jobs", sa.Column("tag", sa.Double(), nullable=True))
    # what waits already keeps its order, before what comes
    op.execute("UPDATE jobs SET tag = 0 WHERE status IN ('queued', 'running')")
    _claim_index("queue", sa.literal_column("priority DESC"), "tag", "id")


def downgrade() -> None:
    _claim_index("queue", sa.literal_column("priority DESC"), "id")
    op.drop_column("jobs", "tag")
    op.drop_column("workers", "pace")
    op.drop_table("clocks")
    op.drop_table("shares")


def _claim_index(*columns: str | sa.ColumnElement[str]) -> None:
    op.drop_index("ix_jobs_claim", "jobs")
    op.create_index("ix_jobs_claim", "jobs", list(columns), sqlite_where=_QUEUED, postgresql_where=_QUEUED)
