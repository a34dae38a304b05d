"""jobs wait for jobs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("depends_on", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("jobs", sa.Column("waits_for", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("awaited", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "dependencies",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("needs", sa.String(length=40), nullable=False),
        sa.Column("met", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_dependencies_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "needs", name=op.f("pk_dependencies")),
    )
    op.create_index("ix_dependencies_needs", "dependencies", ["needs", "met"])
    ended = "awaited AND status IN ('canceled', 'expired', 'failed', 'succeeded')"
    _index("ix_jobs_unsettled", "id", ended)
    op.drop_index("ix_jobs_due", table_name="jobs")
    _index("ix_jobs_due", "due_at", "status = 'scheduled' AND waits_for = 0")


def downgrade() -> None:
    op.drop_index("ix_jobs_due", table_name="jobs")
    _index("ix_jobs_due", "due_at", "status = 'scheduled'")
    op.drop_index("ix_jobs_unsettled", table_name="jobs")
    op.drop_table("dependencies")
    for column in ("awaited", "waits_for", "depends_on"):
        op.drop_column("jobs", column)


def _index(name: str, column: str, where: str) -> None:
    op.create_index(name, "jobs", [column], sqlite_where=sa.text(where), postgresql_where=sa.text(where))
