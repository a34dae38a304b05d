"""Cancel jobs, and let everybody know who waits for that."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from api.auth.caller import Caller
from api.usecases.services import Services
from shared.errors import Unavailable
from shared.jobs.completion import publish_status
from shared.jobs.entities import Job


def cancel(services: Services, caller: Caller, job_id: str) -> Job:
    """A job that waits has ended then; one that runs stops at its next step.

    Raises NotFound, InvalidTransition for a job that has ended, Unavailable."""
    job = services.jobs.cancel(job_id, tenant=caller.tenant)
    _announce(services, [job])
    return job


def cancel_group(services: Services, caller: Caller, name: str) -> Sequence[Job]:
    """Cancel every job of a group that has not ended, and return those. Raises NotFound, Unavailable."""
    touched = services.jobs.cancel_group(name, tenant=caller.tenant)
    _announce(services, touched)
    return touched


def _announce(services: Services, jobs: Sequence[Job]) -> None:
    """Publish which of these jobs have ended, ask the workers of the others to stop them, and let those go on
    that waited for an end."""
    for job in jobs:
        if job.is_terminal:
            publish_status(services.events, job)
        elif job.cancel_requested:
            services.events.ask_to_stop(job.id)
    with suppress(Unavailable):  # maintenance does what is left
        services.completion.handle(*(job for job in jobs if job.is_terminal))
