"""once keyed, always keyed; webhooks wait by tenant and host"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_PENDING = sa.text("status = 'pending'")


def upgrade() -> None:
    op.create_table(
        "marks",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_marks")),
    )
    # revoked keys count: who revoked the last one did not mean to open the server
    op.execute(
        "INSERT INTO marks (name, since) SELECT 'keyed', min(created_at) FROM keys HAVING count(*) > 0"
    )
    for name in ("ix_deliveries_due", "ix_deliveries_host"):
        op.drop_index(name, table_name="deliveries")
    _index("ix_deliveries_receiver", ["tenant", "host", "next_at"])
    _index("ix_deliveries_tenant", ["tenant", "next_at"])


def downgrade() -> None:
    op.drop_index("ix_deliveries_tenant", table_name="deliveries")
    op.drop_index("ix_deliveries_receiver", table_name="deliveries")
    _index("ix_deliveries_due", ["next_at"])
    _index("ix_deliveries_host", ["host", "next_at"])
    op.drop_table("marks")


def _index(name: str, columns: list[str]) -> None:
    op.create_index(name, "deliveries", columns, sqlite_where=_PENDING, postgresql_where=_PENDING)
