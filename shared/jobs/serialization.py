"""A job as the JSON that the contract promises: for whoever asks the API, and for webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from shared.jobs.entities import Job, Output
from shared.states import Status


@lru_cache(maxsize=1024)  # jobs that are submitted together have the same
def time(seconds: float | None) -> str | None:
    """Seconds since 1970 as RFC 3339 in UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def job(
    record: Job, *, waiting: Mapping[str, Any] | None = None, progress: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """``waiting`` says why a job has not started; ``progress`` is fresher than the record's."""
    path = f"/v1/jobs/{record.id}"
    return {
        "id": record.id,
        "object": "job",
        "task": record.task,
        "model": record.model,
        "status": record.shown_status.value,
        "priority": record.priority,
        "input": record.input,
        "progress": _progress(progress or record.progress) if record.status is Status.RUNNING else None,
        "waiting": waiting,
        "outputs": [output(one) for one in record.outputs],
        "result": record.result,
        "error": record.error if record.is_terminal else None,
        "attempts": record.attempts,
        "max_attempts": record.max_attempts,
        "group": record.group,
        "depends_on": record.depends_on,
        "metadata": record.metadata,
        "created_at": time(record.created_at),
        "run_at": time(record.run_at),
        "queued_at": time(record.queued_at),
        "started_at": time(record.started_at),
        "finished_at": time(record.finished_at),
        "expires_at": time(record.expires_at),
        "timings": _timings(record),
        "urls": {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"},
    }


def _progress(known: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if known is None:
        return None
    step, total = known.get("step", 0), known.get("total")
    fraction = round(min(1.0, step / total), 4) if total else None
    return {"stage": known.get("stage", ""), "step": step, "total": total, "fraction": fraction}


def _timings(record: Job) -> dict[str, float | None]:
    queued, started, finished = record.queued_at, record.started_at, record.finished_at
    return {
        "queue": None if queued is None or started is None else round(max(0.0, started - queued), 3),
        "load": record.load_seconds,
        "run": None if started is None or finished is None else round(max(0.0, finished - started), 3),
    }


def output(record: Output) -> dict[str, Any]:
    return {
        **record.facts,  # first: none of them takes the place of what follows
        "id": record.id,
        "index": record.index,
        "media_type": record.media_type,
        "bytes": record.bytes,
        "sha256": record.sha256,
        "width": record.facts.get("width"),
        "height": record.facts.get("height"),
        "url": f"/v1/outputs/{record.id}",
    }
