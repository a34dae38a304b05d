"""A job as it changes, asked for again and again, so that a caller can do something between two looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from qanvas.client import Client, Job
from qanvas.errors import NoAnswer, Unavailable

#: seconds between two looks at a job: often during the first 30 s, when somebody watches a picture being made
_LOOK_SOON, _LOOK_LATER, _SOON = 0.15, 1.0, 30.0
#: seconds a server may be away while a job is followed; it may be restarting
_PATIENCE = 30.0


def follow(client: Client, job: Job, meanwhile: Callable[[], None] | None = None) -> Iterator[Job]:
    """The job as it changes, last in a terminal status. ``meanwhile`` runs before every look."""
    began = answered = time.monotonic()
    yield job
    while not job.is_terminal:
        now = time.monotonic()
        time.sleep(_LOOK_SOON if now - began < _SOON else _LOOK_LATER)
        if meanwhile is not None:
            meanwhile()
        try:
            job = client.job(job.id)
            answered = time.monotonic()
        except (NoAnswer, Unavailable):
            if time.monotonic() - answered > _PATIENCE:
                raise
            continue
        yield job
