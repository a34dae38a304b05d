"""workers tell what they load"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("loading", sa.String(255)))


def downgrade() -> None:
    op.drop_column("workers", "loading")
