"""dead deliveries are counted"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    dead = sa.text("status = 'dead'")
    op.create_index(
        "ix_deliveries_dead", "deliveries", ["ended_at"], sqlite_where=dead, postgresql_where=dead
    )


def downgrade() -> None:
    op.drop_index("ix_deliveries_dead", table_name="deliveries")
