"""Tell those who watch a job what became of it."""

from __future__ import annotations

from shared.aftermath import speaker_of, tell
from shared.events import Events
from shared.jobs import present
from shared.jobs.records import Job


def announce(events: Events, job: Job) -> None:
    """Publish the outputs and the status of a job that has left a worker, and that it is done if it is."""
    for output in job.outputs:
        events.publish(job.id, "output", present.output(output), speaker=speaker_of(job))
    tell(events, job)
