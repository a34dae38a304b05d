"""Who gets the next turn on the device. Pure: no I/O, no clock, no torch.

A turn goes from one boundary of a job to its next. Generation runs in the foreground: the job that came
first runs to its end. Training runs in the background, between the turns of the foreground and within a
share of the time that is bounded from above while somebody waits for a picture, and from below so that it
never starves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

#: the part of the device's time that the background gets while the foreground wants it too
BACKGROUND_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that could have the next turn; ``arrived`` counts up with each job."""

    job_id: str
    arrived: int
    background: bool = False
    #: it shall end at its next boundary, whatever for
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds that each side computed since both want the device."""

    foreground: float = 0.0
    background: float = 0.0

    def after(self, turn: Candidate, seconds: float, candidates: Sequence[Candidate]) -> Spent:
        """The account after a turn. It starts anew when one side is alone: unused time is not saved up."""
        if len({candidate.background for candidate in candidates}) < 2:
            return Spent()
        if turn.background:
            return replace(self, background=self.background + seconds)
        return replace(self, foreground=self.foreground + seconds)

    @property
    def background_is_due(self) -> bool:
        """Whether the background has had less than its share."""
        return self.background < BACKGROUND_SHARE * (self.foreground + self.background)


def next_turn(candidates: Sequence[Candidate], spent: Spent) -> Candidate:
    """Who computes next: first those that only need to be told to end, then as the module says.

    ``candidates`` holds at least one."""

    def rank(candidate: Candidate) -> tuple[bool, bool, int]:
        waits_for_others = candidate.background is not spent.background_is_due
        return (not candidate.stopping, waits_for_others, candidate.arrived)

    return min(candidates, key=rank)
