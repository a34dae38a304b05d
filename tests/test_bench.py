"""The benchmark of the kiln: it runs, and says honestly what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import decoding
from bench.kiln_lone import Lone, lone
from bench.kiln_models import Subject, random_unet, subjects
from bench.kiln_report import aims, aims_table, plots, tables
from bench.kiln_rounds import Figures, Measured, capacity, compare, systems
from bench.kiln_service import Rate, Service
from worker.engines.base import Device
from worker.media.sandbox import Sandbox

SUBJECT = Subject("step-bound", "tiny", lambda: random_unet((16, 32), 8, Device()), equal=(2,), mixed=(1, 3))


def measured(kiln: Figures, *, key: str = "step-bound", steps: str = "mixed", load: float = 3.0) -> Measured:
    others = {"sequential": Figures(10.0, 1.0, 2.0, 100), "static": Figures(15.0, 0.6, 1.0, 70)}
    return Measured(Subject(key, key, object), steps, load, {**others, "kiln": kiln})


@pytest.mark.slow
def test_three_systems_serve_the_same_requests_side_by_side() -> None:
    with systems(SUBJECT, Device()) as made:
        rate = capacity(made[0], SUBJECT.mixed)
        found = compare(SUBJECT, "mixed", 3.0, rate, made, seconds=0.1, rounds=2)
    assert list(found.systems) == ["sequential", "static", "kiln"]
    one, kiln = found.systems["sequential"], found.systems["kiln"]
    assert 24 <= one.forwards <= 24 * 3
    assert 0 < kiln.forwards <= one.forwards
    for figures in found.systems.values():
        assert figures.rate > 0
        assert 0 < figures.mean <= figures.p99 * 2


@pytest.mark.slow
def test_a_lone_request_is_served_by_two_processes_in_turn() -> None:
    alone = lone(next(subjects(Device())), "cpu", steps=2, count=2)
    assert min(alone.plain, alone.kiln, alone.ratio) > 0


def test_an_aim_that_is_missed_is_said_to_be_missed() -> None:
    found = aims(
        [measured(Figures(25.0, 0.25, 0.5, 40))],
        Lone(0.1, 0.102, 1.02),
        Service(Rate(10.0, 0.2), Rate(9.0, 0.21), 0.9, 1.05),
    )
    assert [aim.is_met for aim in found] == [True, True, False, True, False]
    rows = aims_table(found).splitlines()[2:]
    assert [row.endswith("| **no** |") for row in rows] == [False, False, True, False, True]


def test_each_aim_belongs_to_its_model_and_load() -> None:
    slow = Figures(10.0, 1.04, 2.0, 100)
    said = [
        aim.what
        for each in (
            measured(slow, key="compute-bound", steps="equal", load=0.85),
            measured(slow, steps="equal"),
            measured(slow, load=0.7),
        )
        for aim in aims([each], None, None)
    ]
    assert said == [
        "compute-bound, equal steps, load 0.85: mean time, kiln to sequential",
        "step-bound, equal steps, load 3: requests/s, kiln to static",
    ]


@pytest.mark.slow
def test_what_was_measured_is_shown_by_model_in_a_table_and_a_plot(tmp_path: Path) -> None:
    subject = Subject("step-bound", "the model", object)
    systems = {name: Figures(10.0, 0.25, 0.5, 40) for name in ("sequential", "static", "kiln")}
    found = [Measured(subject, "equal", load, systems) for load in (0.7, 3.0)]
    assert "| equal | 0.7 | 10.0 / 10.0 / 10.0 | 250 / 250 / 250 | 500 / 500 / 500 |" in tables(found)
    assert [path.name for path in plots(found, "kiln", tmp_path)] == ["kiln-step-bound.png"]
    assert (tmp_path / "kiln-step-bound.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_picture_is_decoded_here_and_in_the_sandbox_in_pairs(tmp_path: Path) -> None:
    sandbox = Sandbox()
    try:
        for path in decoding.photographs(tmp_path, 64):
            found = decoding.pairs(path, sandbox, tmp_path, 3)
            assert len(found) == 3 and all(min(pair) > 0 for pair in found)
    finally:
        sandbox.close()


def test_what_the_sandbox_adds_is_held_against_the_aim() -> None:
    slow = decoding.row("jpg", [(5.0, 8.0)] * 99 + [(5.0, 30.0)] * 3)
    assert slow[1:4] == ["5.0", "8.0", "3.0"] and slow[-2:] == ["< 10: no", "102"]
    assert decoding.row("jpg", [(5.0, 8.0)] * 50)[-2] == "< 10: yes"
