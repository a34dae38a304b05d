"""How many jobs are claimed before others, counted along the index that claims use.

The order is that of claims in turn: priority, start tag, id. What overtakes, and what comes later with an
earlier tag, is not foreseen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.db.tables import claimable, jobs

Place = tuple[float, str]


class QueuedJob(NamedTuple):
    """A queued job and what its place in the queue follows from; ``tag`` is its start tag."""

    id: str
    queue: str
    priority: int
    tag: float

    @property
    def place(self) -> Place:
        """Its order among the jobs of its queue and priority."""
        return self.tag, self.id


def positions(connection: Connection, queued: Sequence[QueuedJob], *, most: int) -> list[int | None]:
    """For each of these queued jobs how many are claimed before it, 0 for the next; None: more than ``most``.

    Each queue and priority among them is counted once, and read from the first of its jobs to the last."""
    found: dict[str, int | None] = {}
    for queue, priority in dict.fromkeys((job.queue, job.priority) for job in queued):
        places = sorted(job.place for job in queued if (job.queue, job.priority) == (queue, priority))
        found |= _of_one_lane(connection, queue, priority, places, most)
    return [found[job.id] for job in queued]


def _of_one_lane(
    connection: Connection, queue: str, priority: int, places: Sequence[Place], most: int
) -> dict[str, int | None]:
    lane = {"queue": queue, "priority": priority, "most": most + 1}
    first, last = places[0], places[-1]
    before = connection.execute(_before(), {**lane, "tag": first[0], "id": first[1]}).scalar_one()
    between: list[Place] = []
    if first != last and before < most:
        ends = {"tag": first[0], "id": first[1], "last_tag": last[0], "last_id": last[1]}
        between = [(row.tag, row.id) for row in connection.execute(_between(), {**lane, **ends})]
    found: dict[str, int | None] = {}
    for place in places:
        count = before if place == first else before + bisect_left(between, place)
        # what was not read to its end says nothing of those behind
        found[place[1]] = None if count > most or (place != first and before >= most) else count
    return found


_here = (jobs.c.queue == sa.bindparam("queue"), claimable)
_in_turn = (jobs.c.priority.desc(), jobs.c.tag, jobs.c.id)
_same = jobs.c.priority == sa.bindparam("priority")
_tag_and_id = sa.tuple_(jobs.c.tag, jobs.c.id)


def _given(*names: str) -> sa.ColumnElement[Any]:
    tag, key = names
    return sa.tuple_(sa.bindparam(tag, type_=sa.Double), sa.bindparam(key, type_=sa.String))


@cache
def _before() -> sa.Executable:
    """How many jobs come before a ``tag`` and an ``id``, counted up to ``most``: two ranges of one index."""
    ranges = (
        (jobs.c.priority > sa.bindparam("priority"),),
        (_same, _tag_and_id < _given("tag", "id")),
    )
    counts = []
    for where in ranges:
        # in order, though any order would do: else a planner may look for them throughout the table
        some = sa.select(jobs.c.id).where(*_here, *where).order_by(*_in_turn).limit(sa.bindparam("most"))
        counts.append(sa.select(sa.func.count()).select_from(some.subquery()).scalar_subquery())
    return sa.select(counts[0] + counts[1])


@cache
def _between() -> sa.Executable:
    """The places from a job, itself included, up to another."""
    return (
        sa.select(jobs.c.tag, jobs.c.id)
        .where(*_here, _same, _tag_and_id >= _given("tag", "id"), _tag_and_id < _given("last_tag", "last_id"))
        .order_by(jobs.c.tag, jobs.c.id)
        .limit(sa.bindparam("most"))
    )
