"""How many jobs it pays to compute together, from nothing but measured seconds."""

from __future__ import annotations

import pytest

from worker.kiln.costs import Costs

#: seconds of a step by rows, of a model whose step underuses the device, and of one that fills it with a row
STEP_BOUND = {1: 7.5, 2: 10.0, 4: 11.8, 8: 18.6, 16: 30.2}
COMPUTE_BOUND = {1: 100.0, 2: 194.0, 4: 381.0, 8: 777.0, 16: 1720.0}


def together(seconds: dict[int, float], jobs: int, rows: int = 1) -> int:
    return Costs(seconds, measured=True).together([rows] * jobs)


def test_jobs_of_a_step_bound_model_are_all_computed_together() -> None:
    assert [together(STEP_BOUND, jobs) for jobs in (1, 2, 4)] == [1, 2, 4]


def test_throughput_counts_more_the_more_jobs_wait_behind() -> None:
    costs = Costs(STEP_BOUND, measured=True)
    assert [costs.together([1] * 8, behind) for behind in (0, 16)] == [5, 8]
    assert Costs(COMPUTE_BOUND, measured=True).together([1] * 8, behind=16) == 1


def test_jobs_of_a_compute_bound_model_are_computed_one_after_the_other() -> None:
    assert [together(COMPUTE_BOUND, jobs) for jobs in (1, 2, 4, 8, 16)] == [1] * 5


def test_the_choice_is_the_one_with_the_least_mean_time() -> None:
    seconds = {1: 1.0, 2: 1.1, 4: 1.2, 8: 5.0}  # the knee is at four
    jobs = 8

    def mean(size: int) -> float:
        step, groups = seconds[size], jobs // size
        return sum(step * (group + 1) * size for group in range(groups)) / jobs

    assert together(seconds, jobs) == min((1, 2, 4, 8), key=mean) == 4


def test_a_job_is_always_computed_even_if_its_rows_are_too_many() -> None:
    assert Costs(most=4).together([6, 1]) == 1
    assert Costs(most=4).together([2, 2, 2]) == 2
    assert Costs({6: 1.0}, measured=True, most=4).together([6]) == 1


def test_sizes_are_measured_one_after_the_other_and_twice_as_large_at_most() -> None:
    assert together({}, 8) == 1
    assert together({1: 1.0}, 8) == 2
    assert together({1: 1.0, 2: 1.1}, 8) == 4
    assert together({1: 1.0, 2: 1.1, 4: 1.2}, 8) == 8


def test_a_size_below_all_that_were_measured_is_measured_alone() -> None:
    assert together({8: 1.0}, 4, rows=2) == 1


def test_a_larger_size_is_not_tried_where_the_last_ones_showed_no_gain() -> None:
    assert together({1: 1.0, 2: 2.0, 4: 4.0}, 8) == 1
    assert together({1: 1.0, 2: 1.1, 4: 2.1}, 8) == 2


def test_four_are_tried_even_where_two_gain_nothing() -> None:
    """One picture may be computed in a way of its own, which two are too many for."""
    assert together({1: 1.0, 2: 2.0}, 8) == 4


def test_a_misjudged_size_is_looked_at_again() -> None:
    unlucky = {1: 1.0, 2: 2.5, 4: 4.9}
    assert Costs(unlucky, measured=True).together([1] * 8) == 1
    assert Costs(unlucky, measured=True, retry=True).together([1] * 8) == 2


@pytest.mark.parametrize(("rows", "expected"), [(2, 10.0), (3, 10.9), (12, 24.4)])
def test_sizes_in_between_follow_the_line_of_their_neighbours(rows: int, expected: float) -> None:
    assert Costs(STEP_BOUND).expect(rows) == pytest.approx(expected)


def test_a_larger_size_is_hoped_to_cost_no_more_while_rows_get_cheaper() -> None:
    assert Costs(STEP_BOUND).expect(32) == 30.2
    assert Costs(COMPUTE_BOUND).expect(32) == pytest.approx(1720 + 16 * (1720 - 777) / 8)


def test_nothing_is_expected_of_sizes_far_beyond() -> None:
    assert Costs(STEP_BOUND).expect(33) is None
