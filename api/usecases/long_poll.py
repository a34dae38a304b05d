"""Why a job has not started, how many are before it, and waiting until it ends."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from api.auth.caller import Caller
from api.usecases.estimates import seconds_until_start
from api.usecases.job_watcher import Watch
from api.usecases.services import FAR, FAR_ALONE, Accepted, Services
from shared.jobs import serialization
from shared.jobs.entities import Job
from shared.states import Status

#: the longest a request may ask to wait, in seconds
MOST_SECONDS = 60.0

#: seconds after which it is looked whether those who wait are still there
_LOOK_EVERY = 5.0

#: stages of a claimed job that waits for its model
_LOADING = ("download", "load")

_PREFER_WAIT = re.compile(r"(?:^|[,;])\s*wait(?:\s*=\s*\"?(\d{1,9})\"?)?\s*(?=$|[,;])", re.IGNORECASE)


def present_jobs(services: Services, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Jobs as JSON, with what is known of those that run or wait; positions are counted up to ``FAR``."""
    return _present(services, jobs, FAR)


def present_job(services: Services, job: Job) -> dict[str, Any]:
    """One job as JSON; its position is counted up to ``FAR_ALONE``."""
    return _present(services, [job], FAR_ALONE)[0]


def present_accepted(services: Services, accepted: Accepted) -> dict[str, Any]:
    """A job as it was just submitted, with the position it got then: no further look at the database."""
    if accepted.replayed:
        return present_job(services, accepted.job)
    waiting = _waiting(services, accepted.job, None, accepted.position)
    return serialization.job(accepted.job, waiting=waiting)


def _present(services: Services, jobs: Sequence[Job], most: int) -> list[dict[str, Any]]:
    running = [job.id for job in jobs if job.status is Status.RUNNING]
    progress = services.events.latest_progress(running) if running else {}
    ahead = services.positions(jobs, most=most)
    return [
        serialization.job(
            job,
            waiting=_waiting(services, job, progress.get(job.id) or job.progress, ahead.get(job.id)),
            progress=progress.get(job.id),
        )
        for job in jobs
    ]


def _waiting(
    services: Services, job: Job, progress: Mapping[str, Any] | None, position: int | None
) -> dict[str, Any] | None:
    """The contract's ``waiting``; None for a job that does not wait."""
    if job.backs_off:
        due_at = serialization.time(job.due_at)
        return {"reason": "retry-backoff", "position": None, "estimate": None, "due_at": due_at}
    match job.status:
        case Status.SCHEDULED:
            reason, estimate = "depends-on" if job.waits_for else "scheduled", None
        case Status.QUEUED if not services.is_served(job.queue):
            reason, estimate = "no-worker-for-model", None
        case Status.QUEUED if job.parked:
            reason, estimate = "tenant-limit", None
        case Status.QUEUED if services.is_loading(job):
            reason, estimate = "loading-model", None
        case Status.QUEUED:
            reason, estimate = "behind-others", seconds_until_start(job.queue, position, services.workers())
        case Status.RUNNING if progress is not None and progress.get("stage") in _LOADING:
            reason, estimate = "loading-model", None
        case _:
            return None
    return {"reason": reason, "position": position, "estimate": estimate}


def preferred_wait(prefer: str | None) -> float:
    """Seconds that ``Prefer: wait=N`` asks for, at most 60; 0 where it does not ask (RFC 7240)."""
    if prefer is None or (found := _PREFER_WAIT.search(prefer)) is None:
        return 0.0
    return MOST_SECONDS if found[1] is None else min(float(found[1]), MOST_SECONDS)


def until_terminal(
    services: Services, caller: Caller, job: Job, seconds: float, has_left: Callable[[], bool]
) -> Job:
    """The job as soon as it has ended, or as it is after so many seconds, or when whoever asked ``has_left``.

    Returns at once when too many requests of this caller wait already, and when the server is told to stop.
    """
    if seconds <= 0 or job.is_terminal:
        return job
    deadline = time.monotonic() + seconds
    place = services.waiting.hold(caller.waits_as)
    with place as seated, services.follower.watch(job.id, ends_only=True) as watch:
        while True:
            job = services.jobs.get(job.id, tenant=job.tenant)
            left = deadline - time.monotonic()
            if job.is_terminal or left <= 0 or not seated or services.closing.is_set():
                return job
            with services.active.paused():
                if not still_there(watch, left, has_left):
                    return job


def still_there(watch: Watch, seconds: float, has_left: Callable[[], bool]) -> bool:
    """Wait for news, at most so long; False as soon as whoever waits for them ``has_left``."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if watch.wait(min(left, _LOOK_EVERY)):
            return True
        if has_left():
            return False
    return True
