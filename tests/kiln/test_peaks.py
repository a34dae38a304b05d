"""What calls take of the memory: measured, remembered, and left free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.catalog.entries.model import Model
from tests.kiln.studio import Studio
from worker.engines.contract.engine import Call, Context, Device, Result, Work
from worker.kiln.cost_profile import CostProfiles
from worker.kiln.counter import Counter
from worker.kiln.peaks import Peaks

#: bytes that a row takes, and that the model's weights do
ROW, WEIGHTS = 1 << 20, 10 << 20


@pytest.mark.parametrize(
    ("measured", "rows", "nbytes"),
    [
        ({}, 3, 0),
        ({2: 100}, 2, 100),
        ({2: 100}, 1, 100),
        ({2: 100}, 4, 200),
        ({1: 100, 4: 160}, 3, 140),
        ({1: 100, 4: 160}, 6, 200),
        ({1: 100, 2: 90}, 4, 90),
        ({1: 10, 2: 20, 4: 100}, 6, 180),
    ],
)
def test_what_was_not_measured_goes_on_as_what_was(measured: dict[int, int], rows: int, nbytes: int) -> None:
    assert Peaks(measured).expect(rows) == nbytes


def test_as_many_rows_as_fit_and_none_where_not_one_does() -> None:
    peaks = Peaks({1: 100, 2: 200})
    assert [peaks.rows_within(free, 8) for free in (99, 100, 399, 400, 10_000)] == [0, 1, 3, 4, 8]
    peaks.note(4, 1000)
    assert peaks.rows_within(400, 8) == 2
    assert Peaks().rows_within(0, 8) == 8 and Peaks().rows_within(-1, 8) == 0


def test_tensors_count_while_they_live_and_views_do_not() -> None:
    weights = torch.ones(1000)
    with torch.no_grad(), Counter() as counter:
        one = weights + 1  # 4,000 bytes
        view = weights.reshape(10, 100).t()
        two = one * view.reshape(-1)  # the transposed numbers are copied: 8,000 more for a moment
        assert counter.peak == 12_000
        del one
        three = two + 1
        del two, three
        four = torch.cat([weights, weights])
    assert counter.peak == 12_000 and four.nbytes == 8_000


def test_peaks_are_known_at_the_next_start(tmp_path: Path) -> None:
    profiles = CostProfiles(tmp_path, "cpu")
    profiles.note_peak("m", "small", 1, 100)
    profiles.note_peak("m", "large", 2, 700)
    profiles.note_peak("m", "large", 4, 900)
    profiles.save("m")
    again = CostProfiles(tmp_path, "cpu")
    assert again.peak("m") == 700 and again.peak("m", "large", 3) == 800
    assert again.lacks_peak("m", "large", 3) and not again.lacks_peak("m", "large", 4)
    assert again.peak("other") == 0


class Greedy:
    """Implements ``Engine`` and ``Point``: each row takes memory, and any number of rows the same time."""

    name = "greedy"

    def __init__(self, weights: int = WEIGHTS) -> None:
        self._weights = weights
        self.batches: list[int] = []
        self.loads: list[str] = []

    def load(self, model: Model, folder: Path | None, device: Device) -> str:
        self.loads.append(model.id)
        return model.id

    def nbytes(self, loaded: str) -> int:
        return self._weights

    def run(self, loaded: str, work: Work, context: Context) -> Result:
        for _ in range(12):
            context.share(Call(point=self, arguments=None, key="same", size="greedy 1"))
        return Result(value={"sum": len(self.batches)})

    def compute(self, calls: Sequence[Call]) -> list[float]:
        self.batches.append(len(calls))
        return [float(torch.zeros(len(calls), ROW // 4).sum())] * len(calls)

    def agree(self, one: Any, other: Any) -> bool:
        return bool(one == other)


def seasoned() -> CostProfiles:
    """One that knows of the time that all sizes take the same, and of the memory what is measured."""
    profiles = CostProfiles(None, "cpu")
    for rows in range(1, 9):
        for _ in range(12):
            profiles.note("m", "greedy 1", rows, 0.001)
    return profiles


@pytest.mark.parametrize(("rows", "largest"), [(1.5, 1), (3.5, 3), (20.0, 6)])
def test_a_batch_is_as_large_as_what_the_weights_leave_free(
    rows: float, largest: int, tmp_path: Path
) -> None:
    greedy = Greedy()
    budget = WEIGHTS + int(rows * ROW)
    with Studio(tmp_path, greedy, budget=budget, profiles=seasoned()) as studio:
        studio.submit({}).wait()  # what a row takes is measured with the first job
        greedy.batches.clear()
        outcomes = studio.together([{}] * 6)
        assert [outcome.error for outcome in outcomes] == [None] * 6
        assert max(greedy.batches) == largest
        assert "splits" not in studio.kiln.forwards


def test_a_job_that_runs_apart_is_computed_as_it_was_called_and_not_measured(tmp_path: Path) -> None:
    profiles = seasoned()
    with Studio(tmp_path, Greedy(), profiles=profiles) as studio:
        studio.submit({"exact": True}).wait()
        assert profiles.peak("m") == 0
        studio.submit({}).wait()
        assert ROW <= profiles.peak("m") < 2 * ROW


def test_idle_models_leave_for_what_a_job_takes_alone_and_for_no_more(tmp_path: Path) -> None:
    greedy, idle = Greedy(), Greedy(2 * ROW)
    profiles = seasoned()
    with Studio(tmp_path, greedy, budget=WEIGHTS + 11 * ROW // 2, profiles=profiles) as studio:
        studio.submit({}).wait()
        studio.submit({}, model="idle", engine=idle).wait()
        greedy.batches.clear()
        studio.together([{}] * 6)
        assert max(greedy.batches) == 3, "the idle model keeps its two rows"
        assert set(studio.kiln.models) == {"m", "idle", "gate"}
        profiles.note_peak("m", "greedy 1", 1, 4 * ROW)
        studio.submit({}).wait()
        assert "idle" not in studio.kiln.models


def test_what_a_job_takes_is_kept_free_when_its_model_is_loaded(tmp_path: Path) -> None:
    greedy, other = Greedy(), Greedy(2 * ROW)
    profiles = seasoned()
    profiles.note_peak("m", "greedy 1", 1, 4 * ROW)
    with Studio(tmp_path, greedy, budget=WEIGHTS + 11 * ROW // 2, profiles=profiles) as studio:
        studio.submit({}, model="other", engine=other).wait()
        studio.submit({}).wait()
        assert studio.kiln.models == ("m",)
        studio.submit({}, model="other", engine=other).wait()
        assert other.loads == ["other", "other"]
