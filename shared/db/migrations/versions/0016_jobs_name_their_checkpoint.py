"""jobs name their checkpoint, and workers say why they take no jobs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("checkpoint", sa.String(64)))
    op.add_column("workers", sa.Column("trouble", sa.Text))


def downgrade() -> None:
    op.drop_column("workers", "trouble")
    op.drop_column("jobs", "checkpoint")
