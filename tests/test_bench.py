"""The benchmark of the kiln: it runs, and says honestly what was found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import decoding
from bench.kiln_lone import Lone, Ratio, lone
from bench.kiln_models import Subject, random_unet
from bench.kiln_report import aims, aims_table, full_table, lone_table, plots, tables
from bench.kiln_rounds import Figures, Measured, capacity, compare, systems
from bench.kiln_service import BATCHES, Service
from bench.kiln_service import compare as full
from worker.engines.contract.engine import Device
from worker.media.sandbox import Sandbox

SUBJECT = Subject("step-bound", "tiny", lambda: random_unet((16, 32), 8, Device()), equal=(2,), mixed=(1, 3))
TINY = replace(SUBJECT, lone=2)


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
def test_a_lone_request_is_served_by_the_bare_pipeline_the_kiln_and_the_service_in_turn() -> None:
    alone = lone(TINY, Device(), count=2)
    assert min(alone.bare, alone.kiln.median, alone.service.median) > 0
    assert alone.kiln.low <= alone.kiln.median <= alone.kiln.high


@pytest.mark.slow
def test_a_full_queue_is_compared_with_the_fastest_bare_batches() -> None:
    found = full(TINY, Device(), rounds=1, turn=0.1)
    assert set(found.batches) == set(BATCHES)
    assert min(found.bare, found.service, found.ratio, *found.batches.values()) > 0


def test_an_aim_that_is_missed_is_said_to_be_missed() -> None:
    subject = Subject("step-bound", "step-bound", object)
    found = aims(
        [measured(Figures(25.0, 0.25, 0.5, 40))],
        [Lone(subject, 0.1, Ratio(1.02, 1.0, 1.1), Ratio(1.11, 1.0, 1.2), 44)],
        [Service(subject, {1: 10.0}, 10.0, 9.0, 0.9, 6)],
    )
    assert [aim.is_met for aim in found] == [True, True, False, True, False, False]
    rows = aims_table(found).splitlines()[2:]
    assert [row.endswith("| **no** |") for row in rows] == [False, False, True, False, True, True]


def test_the_tables_say_the_median_the_quartiles_and_every_size_of_batch() -> None:
    subject = Subject("starter-image", "starter-image", object, lone=16)
    alone = Lone(subject, 0.48, Ratio(1.02, 1.0, 1.1), Ratio(1.11, 1.05, 1.2), 44)
    row = "| starter-image | 16 | 480 | 1.020 (1.000 to 1.100) | 1.110 (1.050 to 1.200) | 44 |"
    assert row in lone_table([alone])
    batches = dict.fromkeys(BATCHES, 3.0)
    assert "| 2.90 | 0.966 |" in full_table([Service(subject, batches, 3.0, 2.9, 0.966, 6)])


def test_each_aim_belongs_to_its_model_and_load() -> None:
    slow = Figures(10.0, 1.04, 2.0, 100)
    said = [
        aim.what
        for each in (
            measured(slow, key="compute-bound", steps="equal", load=0.85),
            measured(slow, steps="equal"),
            measured(slow, load=0.7),
        )
        for aim in aims([each], [], [])
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
