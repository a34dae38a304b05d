"""outputs have facts: what each medium has to say of itself"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_OF_PICTURES = {
    "sqlite": "json_object('width', width, 'height', height)",
    "postgresql": "json_build_object('width', width, 'height', height)",
}
_BACK = {
    "sqlite": ("json_extract(facts, '$.width')", "json_extract(facts, '$.height')"),
    "postgresql": ("CAST(facts ->> 'width' AS integer)", "CAST(facts ->> 'height' AS integer)"),
}


def upgrade() -> None:
    op.add_column("outputs", sa.Column("facts", sa.JSON(), nullable=False, server_default="{}"))
    facts = _OF_PICTURES[op.get_bind().dialect.name]
    op.execute(f"UPDATE outputs SET facts = {facts} WHERE width IS NOT NULL")
    op.drop_column("outputs", "height")
    op.drop_column("outputs", "width")


def downgrade() -> None:
    op.add_column("outputs", sa.Column("width", sa.Integer(), nullable=True))
    op.add_column("outputs", sa.Column("height", sa.Integer(), nullable=True))
    width, height = _BACK[op.get_bind().dialect.name]
    op.execute(f"UPDATE outputs SET width = {width}, height = {height}")
    op.drop_column("outputs", "facts")
