"""The outcomes as a table of bench/results/drills.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.drills.drill import Outcome, Plan
from bench.drills.systems import System
from bench.report import table, write_result

_HEAD = [
    "",
    "hit",
    "lost",
    "doubled",
    "stuck",
    "begun needlessly",
    "recovered after, median s",
    "worst s",
]


def text(systems: Sequence[System], found: Mapping[str, Outcome], plan: Plan, machine: str) -> str:
    """Markdown."""
    rows = [_HEAD, *(_row(name, outcome) for name, outcome in found.items())]
    told = [["", "set for the drill", "notices a dead worker by default after"]]
    told += [[system.name, system.settings, system.default] for system in systems]
    said = (
        f"{plan.jobs} jobs of {plan.seconds:g} s, {plan.workers} workers that run one at a time; "
        f"{plan.kills} times a worker in the middle of a job that no kill has hit before is killed with "
        f"all its processes, and another is started; one worker is spared, and can take over. {machine}"
    )
    return "\n\n".join([said, table(rows), table(told)])


def write(text: str) -> None:
    """Replace the table."""
    write_result("drills", text)


def _row(name: str, outcome: Outcome) -> list[str]:
    counts = (outcome.hit, outcome.lost, outcome.doubled, outcome.stuck, outcome.again)
    times = (outcome.median, outcome.worst)
    return [name, *map(str, counts), *("" if time is None else f"{time:.1f}" for time in times)]
