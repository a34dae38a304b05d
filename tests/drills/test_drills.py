"""The short drill of the suite; ``make drill`` runs longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills.drill import drill
from tests.drills.faults import FAULTS

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
    assert all(report.faults[name] for name in FAULTS if name not in report.without), report.faults
    assert report.faults["workers left sick"], "as devices that fail and loads that hang make them"
