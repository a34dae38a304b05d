"""retries wait"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SCHEDULED = sa.text("status = 'scheduled'")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("due_at", sa.Double(), nullable=True))
    op.execute("UPDATE jobs SET due_at = run_at WHERE status = 'scheduled'")
    _index("due_at")


def downgrade() -> None:
    _index("run_at")
    op.drop_column("jobs", "due_at")


def _index(column: str) -> None:
    op.drop_index("ix_jobs_due", table_name="jobs")
    op.create_index("ix_jobs_due", "jobs", [column], sqlite_where=_SCHEDULED, postgresql_where=_SCHEDULED)
