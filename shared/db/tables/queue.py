"""What orders the jobs of a queue, for each priority of its own."""

from __future__ import annotations

import sqlalchemy as sa

from shared.db.tables.base import Name, metadata

#: of ``fair_queueing``: the finish tag of a tenant's last job, at which its next one starts
shares = sa.Table(
    "shares",
    metadata,
    sa.Column("queue", Name, primary_key=True),
    sa.Column("priority", sa.SmallInteger, primary_key=True),
    sa.Column("tenant", Name, primary_key=True),
    sa.Column("finish", sa.Double, nullable=False),
)

#: the virtual clocks of ``affinity``
clocks = sa.Table(
    "clocks",
    metadata,
    sa.Column("queue", Name, primary_key=True),
    sa.Column("priority", sa.SmallInteger, primary_key=True),
    sa.Column("virtual", sa.Double, nullable=False),
    # claims out of turn since the last claim in turn, and the time of the first of them
    sa.Column("overtakes", sa.Integer, nullable=False),
    sa.Column("overtaken_since", sa.Double),
)
