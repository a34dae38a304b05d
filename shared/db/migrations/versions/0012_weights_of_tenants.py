"""weights of tenants"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("weight", sa.Double(), nullable=True))
    # the dead letters that nobody has tried again yet, for trying them again in their order
    untried = sa.text("status = 'failed' AND retried_as IS NULL")
    op.create_index(
        "ix_jobs_untried", "jobs", ["tenant", "id"], sqlite_where=untried, postgresql_where=untried
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_untried", table_name="jobs")
    op.drop_column("tenants", "weight")
