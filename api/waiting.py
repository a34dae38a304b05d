"""Why a job has not started, how many are before it, and waiting until it ends."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from api import present
from api.services import Services
from shared.jobs.records import Job
from shared.jobs.states import Status

#: positions are counted up to here where many are asked for, or where counting would hold up a submission
_FAR = 1000
#: the longest a request may ask to wait, in seconds
MOST_SECONDS = 60.0
#: seconds between two looks at the row while events say nothing
_LOOK_EVERY = 5.0

_PREFER_WAIT = re.compile(r"(?:^|[,;])\s*wait(?:\s*=\s*\"?(\d{1,9})\"?)?\s*(?=$|[,;])", re.IGNORECASE)


def present_jobs(services: Services, tenant_jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Jobs as JSON, with what is known of those that run or wait."""
    running = [job.id for job in tenant_jobs if job.status is Status.RUNNING]
    progress = services.events.latest_progress(running)
    return [
        present.job(job, waiting=waiting(services, job, most=_FAR), progress=progress.get(job.id))
        for job in tenant_jobs
    ]


def present_job(services: Services, job: Job, *, exact: bool = False) -> dict[str, Any]:
    """One job as JSON; ``exact`` counts its position however far away it is."""
    if not exact:
        return present_jobs(services, [job])[0]
    progress = services.events.latest_progress([job.id]) if job.status is Status.RUNNING else {}
    return present.job(job, waiting=waiting(services, job), progress=progress.get(job.id))


def waiting(services: Services, job: Job, *, most: int | None = None) -> Mapping[str, Any] | None:
    """The contract's ``waiting``; None for a job that does not wait."""
    if job.status is Status.SCHEDULED:
        return {"reason": "scheduled", "position": None, "estimate": None}
    if job.status is not Status.QUEUED:
        return None
    if not any(job.queue in worker.queues for worker in services.workers()):
        return {"reason": "no-worker-for-model", "position": None, "estimate": None}
    return {
        "reason": "behind-others",
        "position": services.jobs.position(job, most=most),
        "estimate": None,
    }


def preferred_wait(prefer: str | None) -> float:
    """Seconds that ``Prefer: wait=N`` asks for, at most 60; 0 where it does not ask (RFC 7240)."""
    if prefer is None or (found := _PREFER_WAIT.search(prefer)) is None:
        return 0.0
    return MOST_SECONDS if found[1] is None else min(float(found[1]), MOST_SECONDS)


def until_terminal(services: Services, job: Job, seconds: float) -> Job:
    """The job as soon as it has ended, or as it is after so many seconds.

    Returns at once when too many requests wait already, and when the server is told to stop.
    """
    if seconds <= 0 or job.is_terminal:
        return job
    deadline = time.monotonic() + seconds
    with services.seat() as seated, services.follower.watch(job.id) as watch:
        while True:
            job = services.jobs.get(job.id, tenant=job.tenant)
            left = deadline - time.monotonic()
            if job.is_terminal or left <= 0 or not seated or services.closing.is_set():
                return job
            watch.wait(min(left, _LOOK_EVERY))
