"""What the engine thread and the loader's are at, as the watchdog sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.health.watchdog import Step
from worker.kiln.kiln_job import KilnJob
from worker.kiln.loading import Loader


@dataclass(frozen=True, slots=True)
class Turn:
    """What the engine thread is at since ``began`` (``time.monotonic``): the turn of these jobs; its own work
    where there are none."""

    began: float
    kiln_jobs: Sequence[KilnJob] = ()


def engine_step(turn: Turn | None, thread: int) -> Step | None:
    """``thread``: the engine thread's native id. The jobs' own threads work for it during their turns."""
    if turn is None:
        return None
    kiln_jobs = tuple(turn.kiln_jobs)
    due = [
        time for kiln_job in kiln_jobs for time in (kiln_job.deadline, kiln_job.asked_at) if time is not None
    ]
    return Step(
        "computing",
        turn.began,
        (thread, *(job.native_id for job in (kiln_job.thread for kiln_job in kiln_jobs) if job is not None)),
        tuple(kiln_job.order.work.job_id for kiln_job in kiln_jobs),
        blames=True,
        due=min(due, default=None),
    )


def loader_step(loader: Loader) -> Step | None:
    """A load is not due with the job that asked for it, which ends by itself: the model is for others too."""
    if (at := loader.at) is None:
        return None
    kiln_job, began = at
    return Step(
        "loading a model", began, (loader.native_id,), (kiln_job.order.work.job_id,), blames=True, helped=True
    )
