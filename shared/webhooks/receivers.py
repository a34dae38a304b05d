"""Which webhooks are sent next: tenants take turns, so that one's dead receiver or flood delays no other's.

A tenant's deliveries are taken in the order in which they became due, and no more of them at once for one
host than ``per_host``. Of the tenants, those come first of whom the fewest tries are on their way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.db.tables import deliveries, delivery_pending

#: whose deliveries, and the host that they go to
Receiver = tuple[str, str]

#: the tenants with deliveries that wait, and when the first of each is due: a step along an index for each
_TENANTS = sa.text(
    """
    WITH RECURSIVE waiting(tenant) AS (
        SELECT min(tenant) FROM deliveries WHERE status = 'pending'
        UNION ALL
        SELECT (SELECT min(tenant) FROM deliveries WHERE status = 'pending' AND tenant > waiting.tenant)
        FROM waiting WHERE tenant IS NOT NULL
    ), first(tenant, due) AS (
        SELECT tenant, (
            SELECT min(next_at) FROM deliveries WHERE status = 'pending' AND tenant = waiting.tenant
        )
        FROM waiting WHERE tenant IS NOT NULL
    )
    SELECT tenant FROM first WHERE due <= :now ORDER BY due
    """
)


@dataclass(frozen=True, slots=True)
class SendLimits:
    """The most tries at once: of one tenant to one host, and of one tenant."""

    per_host: int
    per_tenant: int


def choose(
    connection: Connection,
    now: float,
    limit: int,
    busy: Mapping[Receiver, int],
    limits: SendLimits,
    *,
    lock: bool = False,
) -> list[str]:
    """The ids of up to ``limit`` deliveries that are due and shall be sent now, beside the ``busy`` ones.

    ``lock``: lock them on a database that knows locks of rows, passing over those that others hold."""
    sending: Counter[str] = Counter()
    for (tenant, _), tries in busy.items():
        sending[tenant] += tries
    waiting: Sequence[str] = connection.execute(_TENANTS, {"now": now}).scalars().all()
    turns = {
        tenant: _of_tenant(connection, tenant, now, room, busy, limits, lock=lock)
        for tenant in sorted(waiting, key=sending.__getitem__)[:limit]
        if (room := min(limit, limits.per_tenant - sending[tenant])) > 0
    }
    chosen: list[str] = []
    while turns and len(chosen) < limit:
        tenant = min(turns, key=sending.__getitem__)  # the first of them where there are several
        if (delivery := next(turns[tenant], None)) is None:
            del turns[tenant]
            continue
        chosen.append(delivery)
        sending[tenant] += 1
    return chosen


def _of_tenant(
    connection: Connection,
    tenant: str,
    now: float,
    limit: int,
    busy: Mapping[Receiver, int],
    limits: SendLimits,
    *,
    lock: bool,
) -> Iterator[str]:
    tries = {host: count for (whose, host), count in busy.items() if whose == tenant}
    full = [host for host, count in tries.items() if count >= limits.per_host]
    due = sa.select(deliveries.c.id, deliveries.c.host).where(
        deliveries.c.tenant == tenant, delivery_pending, deliveries.c.next_at <= now
    )
    due = due.where(deliveries.c.host.not_in(full)) if full else due
    due = due.order_by(deliveries.c.next_at).limit(limit)
    if lock:
        due = due.with_for_update(skip_locked=True)
    for row in connection.execute(due).all():
        if tries.get(row.host, 0) < limits.per_host:
            tries[row.host] = tries.get(row.host, 0) + 1
            yield row.id
