"""The short drill of the suite; ``make drill`` runs longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.drill import drill

SEED, JOBS, SECONDS = 2026, 300, 20.0


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_nothing_is_lost_doubled_or_stuck_while_everything_is_killed_at_random(
    tmp_path: Path, dialect: str
) -> None:
    report = drill(tmp_path, dialect, seed=SEED, jobs=JOBS, seconds=SECONDS)
    print(report)  # noqa: T201 - its counts are the point; pytest shows them with -s
    assert not report.found and not report.odd, str(report)
    assert report.faults["workers killed"] and report.faults["API killed"] and report.faults["Valkey killed"]
    assert report.faults["device poisoned"] and report.faults["load hangs"]
    assert report.faults["workers left sick"], "as both make them"
