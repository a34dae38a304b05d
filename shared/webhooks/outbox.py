"""Webhooks as rows: written with the step they tell of, taken by whoever sends them, kept until delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from shared.db import bulk_insert, dialects
from shared.db.engine import Database
from shared.db.tables import deliveries, delivery_dead, delivery_pending, webhook_secrets
from shared.errors import NotFound
from shared.json_text import to_json
from shared.outward.addresses import destination
from shared.webhooks import receivers
from shared.webhooks.receivers import Receiver, SendLimits
from shared.webhooks.signing import TRY_FOR, new_secret, wait_after
from shared.webhooks.subscription import Webhook

State = Literal["pending", "delivered", "dead"]

#: seconds for which a delivery is its sender's, longer than any try may take; a try whose sender died is made
#: again after them
LEASE = 60.0
#: characters that are kept of the error of a try
MAX_ERROR = 500
#: deliveries of a tenant to one host that are postponed together when it does not answer
_MAX_POSTPONED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a job, ready to be sent: ``body`` is the whole JSON that receivers get."""

    id: str
    type: str
    tenant: str
    job_id: str
    webhook: Webhook
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event on its way to one URL. ``tries`` counts those since it was made or replayed."""

    id: str
    tenant: str
    job_id: str
    type: str
    url: str
    #: what tries are counted by, so that one receiver cannot take them all
    host: str
    secret: str | None = field(repr=False)
    body: str = field(repr=False)
    status: State
    tries: int
    #: of a pending one, when it is tried next; while it is tried, when somebody else may
    next_at: float
    give_up_at: float
    last_status: int | None
    last_error: str | None
    created_at: float
    ended_at: float | None


def append(connection: Connection, events: Sequence[Event], now: float) -> None:
    """Insert the deliveries of these events, in the transaction that made the changes they tell of.

    ``now``: the database's time, in seconds since 1970; the deliveries are due at once."""
    if events:
        bulk_insert.insert(connection, deliveries, [_row(event, now) for event in events])


def _row(event: Event, now: float) -> dict[str, Any]:
    return {
        "id": event.id,
        "tenant": event.tenant,
        "job_id": event.job_id,
        "type": event.type,
        "url": event.webhook.url,
        "host": destination(event.webhook.url),
        "secret": event.webhook.secret,
        "body": to_json(event.body),
        "status": "pending",
        "tries": 0,
        "next_at": now,
        "give_up_at": now + TRY_FOR,
        "created_at": now,
    }


def forget(connection: Connection, job_id: str) -> None:
    """Forget a deleted job's deliveries but those that are still to be made."""
    connection.execute(sa.delete(deliveries).where(deliveries.c.job_id == job_id, ~delivery_pending))


class Outbox:
    """What is to be delivered. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, limit: int, busy: Mapping[Receiver, int], limits: SendLimits) -> list[Delivery]:
        """Take up to ``limit`` deliveries that are due, as ``receivers.choose`` says. Each is the caller's
        for ``LEASE`` seconds."""
        with self._database.read() as connection:  # most claims find nothing: they shall not block a writer
            if not receivers.choose(connection, self._database.now(connection), limit, busy, limits):
                return []
        with self._database.write(durable=False) as connection:
            now = self._database.now(connection)
            lock = self._database.is_server
            chosen = receivers.choose(connection, now, limit, busy, limits, lock=lock)
            if not chosen:
                return []
            taken = (
                sa.update(deliveries)
                .where(deliveries.c.id.in_(chosen))
                .values(next_at=now + LEASE, tries=deliveries.c.tries + 1)
                .returning(deliveries)
            )
            return sorted(map(_record, connection.execute(taken)), key=lambda one: one.id)

    def delivered(self, delivery: Delivery, status: int) -> None:
        """Note that the receiver has accepted it, with this HTTP status."""
        self._settle(delivery, lambda now: {**_ended("delivered", now), "last_error": None}, status)

    def failed(self, delivery: Delivery, error: str, *, status: int | None = None, wait: float = 0.0) -> None:
        """Note that a try failed. The next one is made after ``wait`` seconds at least; where that is later
        than a day after the event, the delivery is given up."""
        wait = max(wait, wait_after(delivery.tries))

        def values(now: float) -> dict[str, Any]:
            if now + wait > delivery.give_up_at:
                return {**_ended("dead", now), "last_error": error[:MAX_ERROR]}
            return {"next_at": now + wait, "last_error": error[:MAX_ERROR]}

        self._settle(delivery, values, status)

    def refused(self, delivery: Delivery, error: str, *, status: int) -> None:
        """Give the delivery up: the receiver refused it for good."""
        self._settle(delivery, lambda now: {**_ended("dead", now), "last_error": error}, status)

    def _settle(self, delivery: Delivery, values: Any, status: int | None) -> None:
        with self._database.write(durable=False) as connection:
            now = self._database.now(connection)
            # its lease is its fence: one that was replayed or taken by another meanwhile is left alone
            mine = (
                deliveries.c.id == delivery.id,
                delivery_pending,
                deliveries.c.next_at == delivery.next_at,
            )
            connection.execute(sa.update(deliveries).where(*mine).values(last_status=status, **values(now)))

    def postpone(self, tenant: str, host: str, seconds: float) -> None:
        """Postpone the tenant's other due deliveries to a host that has just not answered. Those of other
        tenants to that host are tried by themselves: the name may lead them elsewhere."""
        with self._database.write(durable=False) as connection:
            now = self._database.now(connection)
            receiver = (deliveries.c.tenant == tenant, deliveries.c.host == host)
            due = (*receiver, delivery_pending, deliveries.c.next_at <= now)
            waits = self._unlocked(*due, limit=_MAX_POSTPONED)
            connection.execute(sa.update(deliveries).where(waits).values(next_at=now + seconds))

    def _unlocked(self, *which: sa.ColumnElement[bool], limit: int | None = None) -> sa.ColumnElement[bool]:
        """The delivery is one of these, the first due first, and no other transaction has locked it.

        A transaction that moves many passes over locked rows, so that no two deadlock."""
        found = sa.select(deliveries.c.id).where(*which).order_by(deliveries.c.next_at).limit(limit)
        if self._database.is_server:  # a CTE: a planner may run a mere subquery more than once
            found = sa.select(dialects.skip_locked(self._database.dialect, found).cte().c.id)
        return deliveries.c.id.in_(found)

    def backlog(self) -> dict[State, int]:
        """How many deliveries are pending, and how many were given up and are not forgotten yet.

        Each is counted by an index that holds no others: those that arrived, the most, cost nothing."""
        kinds: Mapping[State, sa.ColumnElement[bool]] = {"pending": delivery_pending, "dead": delivery_dead}
        with self._database.read() as connection:
            return {
                state: connection.execute(sa.select(sa.func.count()).where(which)).scalar_one()
                for state, which in kinds.items()
            }

    def of_job(self, job_id: str, *, limit: int, bodies: bool = False) -> list[Delivery]:
        """A job's deliveries, the newest first; ``bodies``: with them, each of which holds the job."""
        columns = [
            sa.literal("").label("body") if column is deliveries.c.body and not bodies else column
            for column in deliveries.c
        ]
        query = (
            sa.select(*columns)
            .where(deliveries.c.job_id == job_id)
            .order_by(deliveries.c.id.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            return list(map(_record, connection.execute(query)))

    def replay(self, event_id: str, *, tenant: str) -> Delivery:
        """Deliver again, whatever became of it: now, and for another day. Raises NotFound."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            again = (
                sa.update(deliveries)
                .where(deliveries.c.id == event_id, deliveries.c.tenant == tenant)
                .values(status="pending", tries=0, next_at=now, give_up_at=now + TRY_FOR, ended_at=None)
                .returning(deliveries)
            )
            if (row := connection.execute(again).one_or_none()) is None:
                raise NotFound("webhook event", event_id)
            return _record(row)

    def prune(self, seconds: float) -> int:
        """Forget those that ended so long ago, and give up those whose day passed untried; how many went."""
        with self._database.write(durable=False) as connection:
            now = self._database.now(connection)
            late = {**_ended("dead", now), "last_error": "its host did not answer for a day"}
            # a try that is on its way may settle it still: an hour is more than that takes
            overdue = (delivery_pending, deliveries.c.give_up_at < now - 3600, deliveries.c.next_at <= now)
            connection.execute(sa.update(deliveries).where(self._unlocked(*overdue)).values(**late))
            old = self._unlocked(deliveries.c.ended_at < now - seconds)
            return connection.execute(sa.delete(deliveries).where(old)).rowcount

    def secret(self, tenant: str) -> str:
        """What signs a tenant's deliveries that name no secret of their own; made when first asked for."""
        query = sa.select(webhook_secrets.c.secret).where(webhook_secrets.c.tenant == tenant)
        with self._database.read() as connection:
            if (known := connection.execute(query).scalar_one_or_none()) is not None:
                return str(known)
        with self._database.write() as connection:
            row = {"tenant": tenant, "secret": new_secret(), "created_at": self._database.now(connection)}
            dialects.insert_if_missing(connection, webhook_secrets, row)
            return str(connection.execute(query).scalar_one())


def _ended(status: State, now: float) -> dict[str, Any]:
    return {"status": status, "ended_at": now}


def _record(row: Row[Any]) -> Delivery:
    return Delivery(**row._mapping)
