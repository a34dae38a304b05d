"""The drill: jobs over some workers, which are killed in turn in the middle of a job; one is spared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bench.drills.systems import System

_POLL = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``seconds`` of work for each job; ``patience``: seconds from the last kill until the rest is stuck."""

    jobs: int = 24
    seconds: float = 3.0
    workers: int = 3
    kills: int = 6
    patience: float = 110.0
    #: seconds to watch for second runs when all have ended
    settle: float = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """``recovery``: for each job that was hit and ended, seconds from the kill to its end."""

    jobs: int
    hit: int  #: jobs that a killed worker was in the middle of
    lost: int  #: never ended, and the system does not know them any more
    stuck: int  #: not ended in time, though the system knows them
    doubled: int  #: done to the end more than once
    again: int  #: begun more often than kills account for
    recovery: Sequence[float]

    @property
    def median(self) -> float | None:
        return statistics.median(self.recovery) if self.recovery else None

    @property
    def worst(self) -> float | None:
        return max(self.recovery, default=None)


def run(system: System, plan: Plan) -> Outcome:
    """Drill one system: what each of its kills hit came to, with a worker there all the time to take over."""
    with system.server():
        try:
            ids = system.submit(plan.jobs, plan.seconds)
            workers = [f"worker{number}" for number in range(plan.workers)]
            for worker in workers:
                system.start(worker)
            hits: list[tuple[str, float]] = []
            for number in range(plan.kills):
                hits += _kill(system, ids, workers[1], plan, {job for job, _ in hits})
                workers = [workers[0], *workers[2:], f"worker{plan.workers + number}"]
                system.start(workers[-1])
            _wait(system, ids, plan)
            return judge(ids, hits, system.starts(), system.ends(), system.held())
        finally:
            system.stop()


def _kill(
    system: System, ids: Sequence[str], worker: str, plan: Plan, spared: Collection[str]
) -> list[tuple[str, float]]:
    """Kill the worker in the middle of a job; what it was doing, and when. Nothing where jobs ran out first.

    A job that was hit before is ``spared``: every system gives up what dies again and again. Raises
    RuntimeError when the worker begins no other though there are some."""
    deadline = time.monotonic() + plan.patience
    while not set(system.running(worker)).difference(spared) and len(system.ends()) < len(ids):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{system.name}: {worker} began no job")
        time.sleep(_POLL)
    time.sleep(plan.seconds / 4)
    at = time.time()
    doing = system.running(worker)
    system.kill(worker)
    ended = system.ends()
    return [(job, at) for job in doing if job not in ended]


def _wait(system: System, ids: Sequence[str], plan: Plan) -> None:
    """Until all have ended, or nothing more will, or the patience is spent; then for second runs."""
    deadline, quiet = time.monotonic() + plan.patience, time.monotonic()
    seen = -1
    while (done := len(system.ends())) < len(ids) and time.monotonic() < deadline:
        if done != seen or system.held():
            seen, quiet = done, time.monotonic()
        if time.monotonic() - quiet > 3 * plan.seconds:
            return
        time.sleep(_POLL)
    time.sleep(plan.settle)


def judge(
    ids: Sequence[str],
    hits: Sequence[tuple[str, float]],
    starts: Mapping[str, int],
    ends: Mapping[str, Sequence[float]],
    held: int,
) -> Outcome:
    """``hits``: job and time of each kill; ``held``: how many the system says it has not finished."""
    missing = sum(job not in ends for job in ids)
    stuck = min(missing, held)
    needed = len(ids) + len(hits)
    return Outcome(
        jobs=len(ids),
        hit=len(hits),
        lost=missing - stuck,
        stuck=stuck,
        doubled=sum(len(times) > 1 for times in ends.values()),
        again=max(0, sum(starts.values()) - needed),
        recovery=[min(later) - at for job, at in hits if (later := [t for t in ends.get(job, ()) if t > at])],
    )
