"""Records of ``shared`` as the JSON that the contract promises; jobs are in ``shared.jobs.serialization``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from flask import Response

from shared.catalog.entries.model import Model
from shared.files.store import FileRecord
from shared.jobs.attempts import Attempt
from shared.jobs.references import with_references
from shared.jobs.scheduling.depths import QueueDepth
from shared.jobs.serialization import time
from shared.jobs.sizes import MAX_PAGE_BYTES
from shared.jobs.workers import Worker
from shared.json_text import json_bytes, to_json, to_json_list
from shared.webhooks.outbox import Delivery


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(to_json(document).encode(), status, headers, mimetype="application/json")


def answer_list(name: str, items: Iterable[Any], status: int = 200, **more: Any) -> Response:
    """A JSON response of ``items`` under ``name``, and what ``more`` there is."""
    rest = "".join(f",{to_json(key)}:{to_json(value)}" for key, value in more.items())
    return Response(f'{{"{name}":{to_json_list(items)}{rest}}}'.encode(), status, mimetype="application/json")


def fitting(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of these, as far as they fit an answer together; at least one, where there is one."""
    shown: list[dict[str, Any]] = []
    size = 0
    for item in items:
        size += json_bytes(item)
        if shown and size > MAX_PAGE_BYTES:
            break
        shown.append(item)
    return shown


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


def attempt(record: Attempt, *, secret: bool) -> dict[str, Any]:
    """``secret``: with the traceback."""
    shown = {
        "attempt": record.attempt,
        "worker": record.worker,
        "host": record.host,
        "started_at": time(record.started_at),
        "ended_at": time(record.ended_at),
        "how": record.how,
        "error": record.error,
    }
    return {**shown, "traceback": record.traceback} if secret else shown


def delivery(record: Delivery) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "webhook.delivery",
        "job": record.job_id,
        "type": record.type,
        "url": record.url,
        "status": record.status,
        "tries": record.tries,
        "last_status": record.last_status,
        "last_error": record.last_error,
        "created_at": time(record.created_at),
        "next_at": time(record.next_at) if record.status == "pending" else None,
        "ended_at": time(record.ended_at),
    }


def model(record: Model, state: str) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "model",
        "created": 0,
        "owned_by": "qanvas",
        "task": record.task,
        "tasks": list(record.schemas),
        "input_schema": with_references(record.input_schema),
        "input_schemas": {task: with_references(schema) for task, schema in record.schemas.items()},
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
        "loading": record.loading,
        "memory": record.memory,
        "forwards": record.forwards,
        "trouble": record.trouble,
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
            "queued": depth.queued,
            "held_back": depth.held_back,
            "oldest_seconds": None if depth.oldest_seconds is None else round(depth.oldest_seconds, 3),
            "workers": served.count(name),
        }
        for name in sorted({*known, *deep, *served})
        for depth in [deep.get(name, QueueDepth(name, 0, None, 0))]
    ]
