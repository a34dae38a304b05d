"""SQLite prefers the small indexes"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_ASIDE, _RUNNING = sa.text("status = 'queued' AND aside"), sa.text("status = 'running'")


def upgrade() -> None:
    _replace(["status", "tenant", "queue"], ["status", "tenant"])


def downgrade() -> None:
    _replace(["tenant", "queue"], ["tenant"])


def _replace(aside: list[str], running: list[str]) -> None:
    op.drop_index("ix_jobs_aside", table_name="jobs")
    op.drop_index("ix_jobs_running", table_name="jobs")
    op.create_index("ix_jobs_aside", "jobs", aside, sqlite_where=_ASIDE, postgresql_where=_ASIDE)
    op.create_index("ix_jobs_running", "jobs", running, sqlite_where=_RUNNING, postgresql_where=_RUNNING)
