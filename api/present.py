"""Records of ``shared`` as the JSON that the contract promises."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Response

from shared.catalog.models import Model
from shared.jobs.files import FileRecord
from shared.jobs.records import Job, Output, QueueDepth, Worker
from shared.jobs.states import Status


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    response = Response(text, status, mimetype="application/json")
    if headers:
        response.headers.extend(dict(headers))
    return response


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
        "depends_on": [],
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
        "id": record.id,
        "index": record.index,
        "media_type": record.media_type,
        "bytes": record.bytes,
        "sha256": record.sha256,
        "width": record.width,
        "height": record.height,
        "url": f"/v1/outputs/{record.id}",
    }


def file(record: FileRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": int(record.created_at),
        "filename": record.filename,
        "purpose": record.purpose,
        "media_type": record.media_type,
        "sha256": record.sha256,
    }


def model(record: Model, state: str) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "model",
        "created": 0,
        "owned_by": "qanvas",
        "task": record.task,
        "input_schema": record.input_schema,
        "output": record.output,
        "state": state,
        "queue": record.queue,
        "license": record.license,
        "revision": record.revision,
        "description": record.description,
    }


def worker(record: Worker) -> dict[str, Any]:
    return {
        "id": record.id,
        "host": record.host,
        "pid": record.pid,
        "device": record.device,
        "slots": record.slots,
        "queues": record.queues,
        "running": record.running,
        "models": record.models,
        "memory": record.memory,
        "started_at": time(record.started_at),
        "last_seen": time(record.last_seen),
    }


def queues(
    depths: Sequence[QueueDepth], workers: Sequence[Worker], known: Collection[str]
) -> list[dict[str, Any]]:
    """The queues that the settings name, that have jobs, or that a worker serves; by name."""
    deep = {depth.queue: depth for depth in depths}
    served = [queue for worker in workers for queue in worker.queues]
    return [
        {
            "name": name,
            "queued": deep[name].queued if name in deep else 0,
            "oldest_seconds": round(deep[name].oldest_seconds, 3) if name in deep else None,
            "workers": served.count(name),
        }
        for name in sorted({*known, *deep, *served})
    ]
