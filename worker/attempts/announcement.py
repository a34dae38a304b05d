"""Tell those who watch a job what became of it."""

from __future__ import annotations

from shared.jobs import serialization
from shared.jobs.completion import publish_status, speaker_of
from shared.jobs.entities import Job
from shared.messaging.events import Events


def announce(events: Events, job: Job) -> None:
    """Publish the outputs and the status of a job that has left a worker, and that it is done if it is."""
    for output in job.outputs:
        events.publish(job.id, "output", serialization.output(output), speaker=speaker_of(job))
    publish_status(events, job)
