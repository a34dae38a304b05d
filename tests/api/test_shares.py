"""Places of which nobody can take all."""

from __future__ import annotations

import pytest

from api.server.fair_slots import FairSlots


def as_many_as_it_gets(shares: FairSlots, holder: str) -> int:
    taken = 0
    while shares.take(holder):
        taken += 1
    return taken


@pytest.mark.parametrize(("count", "half"), [(1, 1), (2, 1), (7, 4), (8, 4), (1000, 500)])
def test_one_holder_gets_half(count: int, half: int) -> None:
    shares = FairSlots(count)
    assert as_many_as_it_gets(shares, "greedy") == half == len(shares)


def test_there_is_a_place_for_the_next_however_greedy_those_before_were() -> None:
    shares = FairSlots(1000)
    for holder in range(9):
        assert as_many_as_it_gets(shares, f"holder {holder}") >= 1


def test_a_place_given_back_can_be_taken_again() -> None:
    shares = FairSlots(8)
    as_many_as_it_gets(shares, "greedy")
    shares.give_back("greedy")
    assert shares.take("greedy") and not shares.take("greedy")
    for _ in range(4):
        shares.give_back("greedy")
    assert len(shares) == 0
    with shares.hold("other") as held:
        assert held and len(shares) == 1
    assert len(shares) == 0
