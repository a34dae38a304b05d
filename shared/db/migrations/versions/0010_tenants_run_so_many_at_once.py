"""tenants run so many at once"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_WAITING = "status IN ('queued', 'scheduled')"
_TURN = (sa.text("priority DESC"), "tag", "id")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("aside", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.drop_index("ix_jobs_claim", table_name="jobs")
    _index("ix_jobs_claim", "status = 'queued' AND NOT aside", "queue", *_TURN)
    op.drop_index("ix_jobs_waiting", table_name="jobs")
    _index("ix_jobs_waiting", _WAITING, "tenant", "status", "queue", *_TURN)
    _index("ix_jobs_aside", "status = 'queued' AND aside", "tenant", "queue")
    _index("ix_jobs_running", "status = 'running'", "tenant")


def downgrade() -> None:
    for index in ("ix_jobs_running", "ix_jobs_aside", "ix_jobs_waiting", "ix_jobs_claim"):
        op.drop_index(index, table_name="jobs")
    _index("ix_jobs_waiting", _WAITING, "tenant")
    _index("ix_jobs_claim", "status = 'queued'", "queue", *_TURN)
    op.drop_column("jobs", "aside")


def _index(name: str, where: str, *columns: str | sa.TextClause) -> None:
    condition = sa.text(where)
    op.create_index(name, "jobs", list(columns), sqlite_where=condition, postgresql_where=condition)
