"""Who gets the next turn on the device, and with whom. Pure: no I/O, no clock, no torch.

A turn lets one job go on to its next boundary, or computes the call at which one or several jobs wait.
Generation runs in the foreground: the job that came first leads, and those that can share its calls ride
along, as many as it pays for, joining and leaving at every step. Training runs in the background, between
the turns of the foreground and within a share of the time that is bounded from above while somebody waits
for a picture, and from below so that it never starves.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from worker.kiln.costs import Costs

#: the part of the device's time that the background gets while the foreground wants it too
BACKGROUND_SHARE = 0.1
#: jobs that are taken to wait behind while more come than are served
BEHIND = 16
#: nothing is known of the costs
FREE = Costs()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A call at which a job waits. Calls with equal keys may be computed as one; None: only alone."""

    key: Hashable
    rows: int = 1
    #: one of many in its job; what comes once is computed first, so that jobs join and leave soon
    looped: bool = True
    costs: Costs = FREE


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that could have the next turn; ``arrived`` counts up with each job."""

    job_id: str
    arrived: int
    model: str = ""
    background: bool = False
    #: it shall end at its next boundary, whatever for
    stopping: bool = False
    begun: bool = True
    #: shares with nobody
    apart: bool = False
    #: where it waits; None: it can go on by itself
    waiting: Waiting | None = None


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


def next_turn(candidates: Sequence[Candidate], spent: Spent, *, full: bool = False) -> list[Candidate]:
    """The job that goes on or begins, or those whose calls are computed as one.

    First those that only need to be told to end; then those that can go on by themselves, up to where they
    wait for others; then new ones, as long as the next call has room for them. ``candidates`` holds at
    least one; ``full``: more come than are served."""
    behind = BEHIND if full else 0
    in_order = sorted(candidates, key=lambda candidate: candidate.arrived)
    if stopping := [candidate for candidate in in_order if candidate.stopping]:
        return stopping[:1]
    side = [candidate for candidate in in_order if candidate.background is spent.background_is_due]
    side = side or in_order
    if going := [candidate for candidate in side if candidate.begun and candidate.waiting is None]:
        return going[:1]
    leader = side[0]
    if not leader.begun:
        return [leader]
    if (joining := _who_joins(leader, side, behind)) is not None:
        return [joining]
    once = [one for one in side if one.waiting is not None and not one.waiting.looped]
    return _together(once[0] if once else leader, side, behind)


def _together(leader: Candidate, side: Sequence[Candidate], behind: int) -> list[Candidate]:
    """The leader and those that share its call, first come first, as many as pay."""
    call = leader.waiting
    assert call is not None
    if call.key is None:
        return [leader]
    sharing = [one for one in side if one.waiting is not None and one.waiting.key == call.key]
    sharing = [leader, *(one for one in sharing if one is not leader)]
    rows = [one.waiting.rows for one in sharing if one.waiting is not None]
    return sharing[: call.costs.together(rows, behind)]


def _who_joins(leader: Candidate, side: Sequence[Candidate], behind: int) -> Candidate | None:
    """The next job that begins because the leader's call would be cheaper with it than without."""
    call = leader.waiting
    assert call is not None
    if call.key is None or not call.looped:
        return None
    alike = [one for one in side if one.model == leader.model and not one.apart]
    new = [one for one in alike if not one.begun]
    on_the_way = [one for one in alike if one.waiting is not None and not one.waiting.looped]
    sharing = [one for one in alike if one.waiting is not None and one.waiting.key == call.key]
    rows = [one.waiting.rows for one in sharing if one.waiting is not None]
    expected = [*rows, *([call.rows] * (len(on_the_way) + len(new)))]
    room = call.costs.together(expected, behind) - len(sharing) - len(on_the_way)
    return new[0] if new and room > 0 else None
