"""The table of transitions says what the contract says."""

from __future__ import annotations

import pytest

from shared.states import TERMINAL, TRANSITIONS, Status


def test_nothing_leaves_a_terminal_state() -> None:
    for name, transition in TRANSITIONS.items():
        assert not transition.sources & TERMINAL, name


def test_every_state_can_be_reached_and_every_live_one_left() -> None:
    targets = {transition.target for transition in TRANSITIONS.values()}
    sources = frozenset().union(*(transition.sources for transition in TRANSITIONS.values()))
    assert targets == set(Status)
    assert sources == set(Status) - TERMINAL


@pytest.mark.parametrize("name", sorted(TRANSITIONS))
def test_what_leaves_running_is_fenced_by_the_attempt(name: str) -> None:
    transition = TRANSITIONS[name]
    assert transition.fenced == (Status.RUNNING in transition.sources)
