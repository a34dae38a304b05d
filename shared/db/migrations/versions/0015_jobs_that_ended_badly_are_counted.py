"""jobs that ended badly are counted"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    badly = sa.text("status IN ('canceled', 'expired', 'failed')")
    op.create_index("ix_jobs_ended_badly", "jobs", ["status"], sqlite_where=badly, postgresql_where=badly)


def downgrade() -> None:
    op.drop_index("ix_jobs_ended_badly", table_name="jobs")
