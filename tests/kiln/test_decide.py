"""Who gets the next turn, without a clock and without a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from worker.kiln.costs import Costs
from worker.kiln.policy import BACKGROUND_SHARE, Candidate, Spent, Waiting, next_turn

STEP = Waiting("step")


def ids(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.job_id for candidate in candidates]


def turn(*candidates: Candidate, full: bool = False) -> list[str]:
    return ids(next_turn(candidates, Spent(), full=full))


def new(job_id: str, arrived: int, **more: object) -> Candidate:
    return replace(Candidate(job_id, arrived, "m", begun=False), **more)


def at(job_id: str, arrived: int, waiting: Waiting = STEP, **more: object) -> Candidate:
    """A job that waits at a call."""
    return replace(Candidate(job_id, arrived, "m", waiting=waiting), **more)


def play(candidates: list[Candidate], seconds: dict[str, float], turns: int) -> list[str]:
    """The ids of those who get the turns, when none of them ever ends."""
    order, spent = [], Spent()
    for _ in range(turns):
        [chosen] = next_turn(candidates, spent)
        order.append(chosen.job_id)
        spent = spent.after(chosen, seconds[chosen.job_id], candidates)
    return order


def test_generation_jobs_run_to_their_end_in_order_of_arrival() -> None:
    jobs = [Candidate("second", 2), Candidate("first", 1), Candidate("third", 3)]
    assert set(play(jobs, dict.fromkeys(("first", "second", "third"), 1.0), 10)) == {"first"}


def test_training_alone_has_the_whole_device() -> None:
    training = Candidate("training", 1, background=True)
    assert play([training], {"training": 1.0}, 5) == ["training"] * 5


def test_a_picture_goes_before_training_that_came_earlier() -> None:
    jobs = [Candidate("training", 1, background=True), Candidate("picture", 2)]
    assert ids(next_turn(jobs, Spent())) == ["picture"]


def test_training_gets_its_share_of_time_and_no_more_however_long_its_turns_are() -> None:
    jobs = [Candidate("training", 1, background=True), Candidate("picture", 2)]
    for training_turn in (0.01, 0.1, 2.0):
        seconds = {"training": training_turn, "picture": 0.1}
        order = play(jobs, seconds, 2000)
        trained = order.count("training") * training_turn
        drawn = order.count("picture") * 0.1
        assert abs(trained / (trained + drawn) - BACKGROUND_SHARE) < 0.02


def test_time_that_training_had_alone_does_not_count_against_it_later() -> None:
    training, picture = Candidate("training", 1, background=True), Candidate("picture", 2)
    spent = Spent()
    for _ in range(1000):
        spent = spent.after(training, 1.0, [training])
    spent = spent.after(picture, 0.1, [training, picture])
    assert next_turn([training, picture], spent) == [training]


def test_a_job_that_shall_end_goes_first() -> None:
    jobs = [
        Candidate("picture", 1),
        Candidate("training", 2, background=True, stopping=True),
        Candidate("other", 3),
    ]
    assert ids(next_turn(jobs, Spent())) == ["training"]


def test_jobs_that_wait_at_equal_calls_are_computed_together() -> None:
    jobs = [at("a", 1), at("b", 2), at("c", 3, Waiting("another step"))]
    assert turn(*jobs) == ["a", "b"]


def test_the_job_that_came_first_leads_whatever_rides_along() -> None:
    assert turn(at("later", 2), at("other", 3), at("first", 1, Waiting("alone in this"))) == ["first"]


def test_a_call_without_a_key_is_computed_alone() -> None:
    assert turn(at("exact", 1, Waiting(None)), at("also", 2, Waiting(None)), at("c", 3)) == ["exact"]


def test_a_job_goes_on_by_itself_up_to_where_others_wait_before_they_are_computed() -> None:
    assert turn(at("a", 1), at("b", 2, waiting=STEP), replace(at("c", 3), waiting=None)) == ["c"]


def test_a_new_job_joins_the_running_batch_before_its_next_step() -> None:
    assert turn(at("a", 1), at("b", 2), new("c", 3)) == ["c"]


def test_those_that_join_encode_their_prompts_together_before_the_next_step() -> None:
    encode = Waiting("encode", looped=False)
    assert turn(at("a", 1), at("b", 2, encode), new("c", 3)) == ["c"]
    assert turn(at("a", 1), at("b", 2, encode), at("c", 3, encode)) == ["b", "c"]


def test_no_job_begins_for_which_the_batch_has_no_room() -> None:
    two = Waiting("step", costs=Costs(most=2))
    assert turn(at("a", 1, two), at("b", 2, two), new("c", 3)) == ["a", "b"]
    assert turn(at("a", 1, two), at("b", 2, Waiting("encode", looped=False)), new("c", 3)) == ["b"]


def test_jobs_of_a_compute_bound_model_wait_for_their_turn_unbegun() -> None:
    full = Waiting("step", costs=Costs({1: 1.0, 2: 2.0, 4: 4.0}, measured=True))
    assert turn(at("a", 1, full), new("b", 2), new("c", 3), full=True) == ["a"]


def test_rows_are_counted_not_jobs() -> None:
    pair = Waiting("step", rows=2, costs=Costs(most=5))
    assert turn(at("a", 1, pair), at("b", 2, pair), at("c", 3, pair)) == ["a", "b"]


def test_a_job_of_another_model_or_one_that_runs_apart_waits_for_its_turn() -> None:
    assert turn(at("a", 1), new("other", 2, model="other"), new("apart", 3, apart=True)) == ["a"]
    assert turn(at("late", 3), new("other", 2, model="other")) == ["other"]


def test_training_has_its_turns_between_shared_steps() -> None:
    training = Candidate("training", 1, "t", background=True)
    jobs = [training, at("a", 2), at("b", 3)]
    assert ids(next_turn(jobs, Spent(foreground=1.0, background=0.2))) == ["a", "b"]
    assert ids(next_turn(jobs, Spent(foreground=1.0, background=0.0))) == ["training"]
