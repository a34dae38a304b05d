"""Tell those who watch a job what became of it."""

from __future__ import annotations

from shared.events import Events
from shared.jobs.records import Job


def announce(events: Events, job: Job) -> None:
    """Publish the outputs and the status of a job that has left a worker, and that it is done if it is."""
    for output in job.outputs:
        shown = {
            "id": output.id,
            "index": output.index,
            "media_type": output.media_type,
            "bytes": output.bytes,
            "sha256": output.sha256,
            "width": output.width,
            "height": output.height,
            "url": f"/v1/outputs/{output.id}",
        }
        events.publish(job.id, "output", shown)
    events.publish(job.id, "status", {"status": job.shown_status.value})
    if job.is_terminal:
        events.publish(job.id, "done", {"status": job.status.value})
