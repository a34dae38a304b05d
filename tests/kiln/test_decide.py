"""Who gets the next turn, without a clock and without a device."""

from __future__ import annotations

from worker.kiln.decide import BACKGROUND_SHARE, Candidate, Spent, next_turn


def play(candidates: list[Candidate], seconds: dict[str, float], turns: int) -> list[str]:
    """The ids of those who get the turns, when none of them ever ends."""
    order, spent = [], Spent()
    for _ in range(turns):
        chosen = next_turn(candidates, spent)
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
    assert next_turn(jobs, Spent()).job_id == "picture"


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
    assert next_turn([training, picture], spent) is training


def test_a_job_that_shall_end_goes_first() -> None:
    jobs = [
        Candidate("picture", 1),
        Candidate("training", 2, background=True, stopping=True),
        Candidate("other", 3),
    ]
    assert next_turn(jobs, Spent()).job_id == "training"
