"""The counts of drills as a table of docs/reliability.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.report import fill_in, table
from tests.drills.drill import Report

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
#: its part of the page
PART = "our drill"
_HEAD = ["database, seed", "jobs", "what was broken", "lost", "doubled", "stuck", "anything else", "seconds"]


def text(reports: Sequence[Report], machine: str) -> str:
    """Markdown."""
    return f"{machine}\n\n{table([_HEAD, *map(_row, reports)])}"


def write(reports: Sequence[Report], machine: str) -> None:
    """Put the table into the page."""
    fill_in(PART, text(reports, machine), page=PAGE)


def _row(report: Report) -> list[str]:
    found = report.found
    bad = (
        found.lost,
        found.doubled,
        found.stuck,
        [*found.unproven, *found.orphaned, *found.untold, *report.odd],
    )
    counts = [str(len(one)) for one in bad]
    name = f"{report.database}, {report.seed}"
    return [name, str(report.jobs), report.broken, *counts, f"{report.seconds:.0f}"]
