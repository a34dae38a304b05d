"""Which of the jobs that come next a worker takes, when some of their models are loaded there already.

A job whose model is resident may be claimed out of turn, before others of its priority, so that a worker does
not load a model anew for each job. What it may overtake is bounded: it stands among the first ``WINDOW`` in
order, and between two claims in turn there are at most ``OVERTAKES`` out of turn, the last of them at most
``OVERTAKE_SECONDS`` after the first. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

#: how far from the head of the queue a job may be taken out of turn
WINDOW = 16
#: claims out of turn before the head has its turn, and for how long
OVERTAKES = 8
OVERTAKE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class VirtualClock:
    """How far the claims of one queue and priority have come."""

    #: the virtual time: the greatest start tag that was claimed in turn
    virtual: float = 0.0
    #: claims out of turn since the last claim in turn
    overtakes: int = 0
    #: the time of the first of these, in seconds since 1970; None where there is none
    since: float | None = None

    def allows_overtaking(self, now: float) -> bool:
        """Whether one more job may be taken out of turn."""
        if self.since is None:
            return True
        return self.overtakes < OVERTAKES and now - self.since <= OVERTAKE_SECONDS

    def overtaken(self, now: float) -> VirtualClock:
        """The clock after a claim out of turn, which does not advance the virtual time."""
        return replace(self, overtakes=self.overtakes + 1, since=now if self.since is None else self.since)

    def in_turn(self, tag: float) -> VirtualClock:
        """The clock after a claim in turn."""
        return VirtualClock(virtual=max(self.virtual, tag))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A queued job near the head."""

    id: str
    model: str
    priority: int
    tag: float
    tenant: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What to claim, best first, and each priority's clock after it."""

    jobs: tuple[Candidate, ...]
    clocks: dict[int, VirtualClock]
    #: priorities in which a job was taken out of turn
    overtaken: frozenset[int]


def choose(
    candidates: Sequence[Candidate],
    clocks: dict[int, VirtualClock],
    resident: Collection[str],
    *,
    limit: int,
    now: float,
) -> Choice:
    """Take up to ``limit`` of the candidates, which are the first of a queue in order.

    ``clocks`` is by priority. A model that a chosen job needs counts as resident for those chosen after it.
    """
    left, loaded, after = list(candidates), set(resident), dict(clocks)
    chosen: list[Candidate] = []
    overtaken: set[int] = set()
    while left and len(chosen) < limit:
        head = left[0]
        clock = after.get(head.priority, VirtualClock())
        job = head
        if head.model not in loaded and clock.allows_overtaking(now):
            job = _first_resident(left, loaded)
        if job is head:
            after[head.priority] = clock.in_turn(head.tag)
        else:
            after[head.priority] = clock.overtaken(now)
            overtaken.add(head.priority)
        left.remove(job)
        chosen.append(job)
        loaded.add(job.model)
    return Choice(tuple(chosen), after, frozenset(overtaken))


def _first_resident(left: Sequence[Candidate], loaded: Collection[str]) -> Candidate:
    """The first in the window, of the head's priority, whose model is loaded; else the head."""
    head = left[0]
    near = (job for job in left[:WINDOW] if job.priority == head.priority and job.model in loaded)
    return next(near, head)
