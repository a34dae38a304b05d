"""What is measured of calls, and what is remembered of it."""

from __future__ import annotations

from pathlib import Path

from worker.kiln.cost_profile import CostProfiles

STEP_BOUND, COMPUTE_BOUND = {1: 1.0, 2: 1.1, 4: 1.3, 8: 1.7}, {1: 1.0, 2: 1.95, 4: 3.9, 8: 7.9}


def compute(profiles: CostProfiles, seconds: dict[int, float], jobs: int, steps: int) -> list[int]:
    """How many of the waiting jobs were computed together at each step, when measured as told."""
    sizes = []
    for _ in range(steps):
        count = profiles.costs("m", "s", 32).together([1] * jobs)
        wanted = profiles.wants("m", "s", count)
        below, above = max(r for r in seconds if r <= count), min(r for r in seconds if r >= count)
        took = (seconds[below] + seconds[above]) / 2
        profiles.note("m", "s", count, took if wanted else None)
        sizes.append(count)
    return sizes


def test_a_step_bound_model_is_batched_after_a_few_steps() -> None:
    sizes = compute(CostProfiles(None, "cpu"), STEP_BOUND, jobs=8, steps=30)
    assert sizes[0] == 1 and sizes[-1] == 8


def test_a_compute_bound_model_is_tried_in_twos_and_fours_and_then_runs_alone() -> None:
    sizes = compute(CostProfiles(None, "cpu"), COMPUTE_BOUND, jobs=8, steps=200)
    assert max(sizes) == 4
    assert sizes[20:].count(1) >= 175


def test_the_first_call_of_a_size_is_not_believed() -> None:
    profiles = CostProfiles(None, "cpu")
    for seconds in (60.0, 1.0, 1.0, 1.0):
        profiles.note("m", "s", 1, seconds)
    assert profiles.costs("m", "s", 32).seconds == {1: 1.0}


def test_what_was_measured_is_known_at_the_next_start_on_the_same_device(tmp_path: Path) -> None:
    profiles = CostProfiles(tmp_path, "cpu float32")
    compute(profiles, STEP_BOUND, jobs=8, steps=30)
    profiles.save("m")
    again = CostProfiles(tmp_path, "cpu float32")
    assert again.costs("m", "s", 32).together([1] * 8) == 8
    assert CostProfiles(tmp_path, "cuda float16").costs("m", "s", 32).seconds == {}
    assert again.costs("other", "s", 32).seconds == {}


def test_a_file_that_is_not_ours_is_as_none(tmp_path: Path) -> None:
    profiles = CostProfiles(tmp_path, "cpu")
    compute(profiles, STEP_BOUND, jobs=1, steps=5)
    profiles.save("m")
    [path] = tmp_path.iterdir()
    for text in ("[]", "{", '{"seconds": {"s": {"x": [1]}}}', '{"seconds": 3}'):
        path.write_text(text)
        assert CostProfiles(tmp_path, "cpu").costs("m", "s", 32).seconds == {}


def test_what_is_not_measured_shares_as_far_as_memory_allows() -> None:
    assert CostProfiles(None, "cpu").costs("m", None, 4).together([1] * 8) == 4


def test_a_machine_that_was_busy_for_a_while_does_not_make_a_size_dear() -> None:
    profiles = CostProfiles(None, "cpu")
    for rows, seconds in ((1, 1.0), (2, 1.1), (4, 1.3)):
        for taken in (60.0, seconds, 5 * seconds, 9 * seconds):
            profiles.note("m", "s", rows, taken)
    assert profiles.costs("m", "s", 32).seconds == {1: 1.0, 2: 1.1, 4: 1.3}


def test_sizes_that_lie_near_a_measured_one_are_not_measured() -> None:
    profiles = CostProfiles(None, "cpu")
    for rows in (3, 1, 2, 4, 5, 6):
        for _ in range(4):
            profiles.note("m", "s", rows, float(rows))
    assert profiles.costs("m", "s", 32).seconds == {1: 1.0, 3: 3.0, 6: 6.0}
    # a GPU would have to be waited for
    assert [rows for rows in range(1, 14) if profiles.wants("m", "s", rows)] == [1, 3, 6, 12, 13]


def test_fewer_rows_never_cost_more_than_more_of_them() -> None:
    profiles = CostProfiles(None, "cpu")
    for rows, seconds in ((1, 1.0), (2, 9.0), (4, 1.3)):
        for _ in range(4):
            profiles.note("m", "s", rows, seconds)
    assert profiles.costs("m", "s", 32).seconds == {1: 1.0, 2: 1.3, 4: 1.3}
