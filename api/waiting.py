"""Why a job has not started, how many are before it, and waiting until it ends."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from api.services import FAR, Accepted, Services
from shared.jobs import present
from shared.jobs.records import Job
from shared.jobs.states import Status

#: the longest a request may ask to wait, in seconds
MOST_SECONDS = 60.0

_PREFER_WAIT = re.compile(r"(?:^|[,;])\s*wait(?:\s*=\s*\"?(\d{1,9})\"?)?\s*(?=$|[,;])", re.IGNORECASE)


def present_jobs(services: Services, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Jobs as JSON, with what is known of those that run or wait; positions are counted up to ``FAR``."""
    progress = services.events.latest_progress([job.id for job in jobs if job.status is Status.RUNNING])
    return [
        present.job(job, waiting=_waiting(services, job, most=FAR), progress=progress.get(job.id))
        for job in jobs
    ]


def present_job(services: Services, job: Job) -> dict[str, Any]:
    """One job as JSON, with its position however far away it is."""
    progress = services.events.latest_progress([job.id]) if job.status is Status.RUNNING else {}
    return present.job(job, waiting=_waiting(services, job, most=None), progress=progress.get(job.id))


def present_accepted(services: Services, accepted: Accepted) -> dict[str, Any]:
    """A job as it was just submitted, with the position it got then: no further look at the database."""
    if accepted.replayed:
        return present_job(services, accepted.job)
    waiting = _reason(services, accepted.job)
    if waiting is not None:
        waiting["position"] = accepted.position
    return present.job(accepted.job, waiting=waiting)


def _waiting(services: Services, job: Job, *, most: int | None) -> dict[str, Any] | None:
    waiting = _reason(services, job)
    if waiting is not None and waiting["reason"] == "behind-others":
        waiting["position"] = services.jobs.position(job, most=most)
    return waiting


def _reason(services: Services, job: Job) -> dict[str, Any] | None:
    """The contract's ``waiting``, its position not yet counted; None for a job that does not wait."""
    if job.backs_off:
        due_at = present.time(job.due_at)
        return {"reason": "retry-backoff", "position": None, "estimate": None, "due_at": due_at}
    if job.status is Status.SCHEDULED:
        reason = "scheduled"
    elif job.status is not Status.QUEUED:
        return None
    else:
        reason = "behind-others" if services.is_served(job.queue) else "no-worker-for-model"
    return {"reason": reason, "position": None, "estimate": None}


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
    with services.seat() as seated, services.follower.watch(job.id, ends_only=True) as watch:
        while True:
            job = services.jobs.get(job.id, tenant=job.tenant)
            left = deadline - time.monotonic()
            if job.is_terminal or left <= 0 or not seated or services.closing.is_set():
                return job
            with services.away_from_desk():
                watch.wait(left)
