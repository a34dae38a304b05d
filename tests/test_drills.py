"""What the drill of bench/drills calls lost, stuck, doubled and recovered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.drills import work
from bench.drills.drill import judge
from tests.drills.audit import Findings
from tests.drills.drill import Report
from tests.drills.report import text

IDS = ["a", "b", "c"]


def test_jobs_that_all_ended_once_are_neither_lost_nor_doubled() -> None:
    found = judge(IDS, [("b", 10.0)], {"a": 1, "b": 2, "c": 1}, {"a": [9.0], "b": [14.0], "c": [12.0]}, 0)
    assert (found.hit, found.lost, found.stuck, found.doubled, found.again) == (1, 0, 0, 0, 0)
    assert (found.median, found.worst) == (4.0, 4.0)


def test_a_job_that_never_ended_is_stuck_where_it_is_still_known_and_lost_where_not() -> None:
    hits, starts, ends = [("b", 10.0)], dict.fromkeys(IDS, 1), {"a": [9.0]}
    known = judge(IDS, hits, starts, ends, held=1)
    assert (known.lost, known.stuck) == (1, 1)
    forgotten = judge(IDS, hits, starts, ends, held=0)
    assert (forgotten.lost, forgotten.stuck) == (2, 0)
    assert forgotten.median is forgotten.worst is None


def test_a_second_end_and_a_start_that_no_kill_explains_are_counted() -> None:
    found = judge(IDS, [("a", 2.0)], {"a": 2, "b": 2, "c": 1}, {"a": [5.0], "b": [3.0, 8.0], "c": [4.0]}, 0)
    assert (found.doubled, found.again) == (1, 1)


def test_work_is_noted_as_begun_and_ended_by_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, work.WORKER, "worker7")
    assert work.read(tmp_path) == []
    work.work(str(tmp_path), "a", 0.0)
    first, second = work.read(tmp_path)
    assert (first.what, first.job, first.worker) == ("start", "a", "worker7")
    assert (second.what, second.job) == ("end", "a") and second.at >= first.at


def test_our_own_drill_is_told_with_every_count() -> None:
    found = Findings(lost=["a"], doubled=["b", "c"], unproven=["d"], untold=["e"])
    report = Report("sqlite", 7, 300, {"API killed": 2, "Valkey hung": 0}, 5, ("f",), 61.2, found)
    assert text([report], "2 CPUs.").splitlines()[-1] == (
        "| sqlite, 7 | 300 | API killed 2, requests repeated 5 | 1 | 2 | 0 | 3 | 61 |"
    )
