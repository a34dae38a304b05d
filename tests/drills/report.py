"""The counts of drills as a table of bench/results/our-drill.md."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import table, write_result
from tests.drills.drill import Report

_HEAD = ["database, seed", "jobs", "what was broken", "lost", "doubled", "stuck", "anything else", "seconds"]


def text(reports: Sequence[Report], machine: str) -> str:
    """Markdown."""
    return f"{machine}\n\n{table([_HEAD, *map(_row, reports)])}"


def write(reports: Sequence[Report], machine: str) -> None:
    """Replace the table."""
    write_result("our-drill", text(reports, machine))


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
