"""Which job a worker takes when some models are loaded there: the bounds hold whatever comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.jobs.scheduling.affinity import (
    OVERTAKE_SECONDS,
    OVERTAKES,
    WINDOW,
    Candidate,
    VirtualClock,
    choose,
)

#: seconds between two claims
PACE = 3.0

queues = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([1, 5, 9])), max_size=60)


def in_order(queue: list[tuple[str, int]]) -> list[Candidate]:
    ranked = sorted(queue, key=lambda job: -job[1])
    return [
        Candidate(f"{place:03}", model, priority, float(place), "ann")
        for place, (model, priority) in enumerate(ranked)
    ]


@given(queue=queues, resident=st.sampled_from(["", "a", "b", "ab"]), limit=st.integers(1, 4))
def test_every_job_is_taken_once_and_overtaken_no_more_than_promised(
    queue: list[tuple[str, int]], resident: str, limit: int
) -> None:
    left, clocks, now = in_order(queue), dict[int, VirtualClock](), 0.0
    taken: list[Candidate] = []
    #: how many were taken out of turn, and since when, while the head of a priority waits
    passed: dict[int, tuple[int, float]] = {}
    while left:
        chosen = choose(left[: WINDOW + limit], clocks, resident, limit=limit, now=now)
        assert 0 < len(chosen.jobs) <= limit
        for job in chosen.jobs:
            head = left[0]
            assert job.priority == head.priority
            assert left.index(job) < WINDOW
            if job == head:
                passed.pop(job.priority, None)
            else:
                assert job.model in resident or any(job.model == other.model for other in chosen.jobs)
                count, since = passed.get(job.priority, (0, now))
                assert count < OVERTAKES and now - since <= OVERTAKE_SECONDS
                passed[job.priority] = (count + 1, since)
            left.remove(job)
        taken += chosen.jobs
        clocks, now = chosen.clocks, now + PACE
    assert sorted(job.id for job in taken) == sorted(job.id for job in in_order(queue))


@given(queue=queues)
def test_without_a_loaded_model_jobs_are_taken_in_turn(queue: list[tuple[str, int]]) -> None:
    ordered = in_order(queue)
    assert list(choose(ordered, {}, (), limit=1, now=0.0).jobs) == ordered[:1]


def test_the_virtual_time_is_that_of_jobs_taken_in_turn() -> None:
    ordered = in_order([("a", 5), ("b", 5)])
    out_of_turn = choose(ordered, {5: VirtualClock(virtual=-3.0)}, {"b"}, limit=1, now=7.0)
    assert out_of_turn.clocks[5] == VirtualClock(virtual=-3.0, overtakes=1, since=7.0)
    in_turn = choose(ordered[:1], out_of_turn.clocks, {"b"}, limit=1, now=8.0)
    assert in_turn.clocks[5] == VirtualClock(virtual=0.0)
