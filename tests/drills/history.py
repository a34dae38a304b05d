"""What the database noted of every job: in which order jobs ran and ended, and what each attempt was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared.db.tables import attempts
from shared.states import TERMINAL
from tests.drills.orders import Order

Row = sa.Row[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Step:
    """``number`` grows with time; a job's ``attempt`` is the one in which it took on this ``status``."""

    number: int
    status: str
    attempt: int


@dataclass
class History:
    """By job: its steps, as ``stage.witness`` lets the database note them, and how its attempts ended."""

    steps: dict[str, list[Step]] = field(default_factory=dict)
    attempts: dict[str, list[Row]] = field(default_factory=dict)

    @staticmethod
    def read(connection: Connection) -> History:
        found = History()
        for row in connection.execute(sa.text("SELECT * FROM drill_steps ORDER BY number")):
            found.steps.setdefault(row.job_id, []).append(Step(row.number, row.status, row.attempt))
        for row in connection.execute(sa.select(attempts).order_by(attempts.c.job_id, attempts.c.attempt)):
            found.attempts.setdefault(row.job_id, []).append(row)
        return found

    def endings(self, job_id: str) -> int:
        """How often it entered a terminal status."""
        return sum(step.status in TERMINAL for step in self.steps.get(job_id, ()))

    def first(self, job_id: str, status: str) -> int | None:
        """The number of its first step to this status."""
        return next((step.number for step in self.steps.get(job_id, ()) if step.status == status), None)

    def miscounted(self, order: Order, row: Row) -> list[str]:
        """Attempts of an ended job that were given twice, or that nobody counted."""
        claimed = [step.attempt for step in self.steps.get(row.id, ()) if step.status == "running"]
        ended = self.attempts.get(row.id, [])
        good = int(row.status == "succeeded")
        told = [one.attempt for one in ended] + good * [row.attempt]
        counted = sum(one.how != "handed-back" for one in ended) + good
        wrong = []
        if sorted(claimed) != list(range(1, row.attempt + 1)):
            wrong.append(f"workers had the attempts {claimed} of {row.attempt}")
        if told != list(range(1, row.attempt + 1)):
            wrong.append(f"the history tells of {told} of {row.attempt} attempts")
        if row.attempts != counted:
            wrong.append(f"{row.attempts} attempts are counted, {counted} were made")
        failed = [one.attempt for one in ended if one.how == "failed" and one.error["retryable"]]
        if any(attempt > order.failing for attempt in failed) or (good and row.attempt <= order.failing):
            wrong.append(f"the attempts {failed} failed, and not the first {order.failing}")
        if order.failing and not good and row.attempts != row.max_attempts:
            wrong.append(f"was given up after {row.attempts} of {row.max_attempts} attempts")
        return wrong

    def out_of_turn(self, order: Order, row: Row, needed: Mapping[str, Row]) -> list[str]:
        """Whether it ran before all that it waits for had succeeded, or though something of it never did."""
        began = self.first(row.id, "running")
        bad = [key for key, other in needed.items() if other.status != "succeeded"]
        wrong = []
        for key, other in needed.items():
            done = self.first(other.id, "succeeded")
            if began is not None and (done is None or done > began):
                wrong.append(f"ran at {began}, before {key} had succeeded at {done}")
        fell = row.status == "failed" and row.error["type"] == "dependency-failed"
        if fell != bool(bad):
            wrong.append(f"ended {row.status} ({row.error}), and of what it needs failed {bad}")
        return wrong


def proven(history: History, order: Order, row: Row, by_key: Mapping[str, Row]) -> Sequence[str]:
    """All that is wrong with an ended job's attempts and with its turn."""
    needed = {key: by_key[key] for key in order.waits_for if key in by_key}
    missing = [f"{key}, which it needs, is not there" for key in order.waits_for if key not in by_key]
    return [*missing, *history.miscounted(order, row), *history.out_of_turn(order, row, needed)]
