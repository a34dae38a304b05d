"""The statements that the code really sends, and how a database goes about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from shared.db.engine import Database

Sent = tuple[str, Any]


@contextmanager
def sent(database: Database) -> Iterator[list[Sent]]:
    """Every statement that is sent inside, with its parameters."""
    seen: list[Sent] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        seen.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


@dataclass
class Plan:
    """``text`` is the plan; the rest is from running it, on PostgreSQL alone."""

    text: str
    #: the most rows that any node gave or threw away
    rows: int = 0
    scans: list[str] = field(default_factory=list)
    #: rows into each sort
    sorted_rows: list[int] = field(default_factory=list)


def plan(database: Database, statement: Sent) -> Plan:
    """How the database answers it; what it writes is rolled back."""
    with database.engine.connect() as connection:
        text, parameters = statement
        if database.dialect == "sqlite":
            steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters)
            return Plan("\n".join(step[3] for step in steps))
        analyzed = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", parameters)
        found = Plan("")
        _read(analyzed.scalar_one()[0]["Plan"], found)
        connection.rollback()
        return found


def _read(node: dict[str, Any], found: Plan) -> None:
    name = node.get("Index Name") or node.get("Relation Name", "")
    found.text += f"{node['Node Type']} {name}\n"
    thrown_away = sum(value for key, value in node.items() if key.startswith("Rows Removed by"))
    found.rows = max(found.rows, int((node["Actual Rows"] + thrown_away) * node["Actual Loops"]))
    if node["Node Type"] in ("Seq Scan", "Bitmap Heap Scan"):
        found.scans.append(node["Relation Name"])
    children = node.get("Plans", [])
    if "Sort" in node["Node Type"]:
        found.sorted_rows.append(int(children[0]["Actual Rows"]))
    for child in children:
        _read(child, found)


def analyze(database: Database) -> None:
    """Let the database learn what its tables hold."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))
