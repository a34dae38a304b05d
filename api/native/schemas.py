"""The JSON Schemas of what comes in and goes out: they validate, and the OpenAPI document is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.ids import pattern
from shared.jobs.dependencies import MAX_DEPENDENCIES
from shared.outward.addresses import MOST as MOST_URL
from shared.states import Status
from shared.webhooks.subscription import EVENTS

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SECONDS: Schema = {"type": "number", "minimum": 0}
_TIME: Schema = {"type": "string", "format": "date-time"}
_OBJECT: Schema = {"type": "object"}
_YEAR, _WEEK = 366 * 86_400, 7 * 86_400

#: the name of a group, and of other things that clients name
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[^\u0000-\u001f/]+$"}


#: of pages of jobs
SHORT: Schema = {"type": "string", "minLength": 1, "maxLength": 200}
PAGE: Schema = {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}
CURSOR: Schema = {
    "type": "string",
    "pattern": f"^{pattern('job')}$",
    "description": "`next_cursor` of the page before.",
    "x-expects": "the next_cursor of an earlier page",
}


def _or_null(schema: Schema) -> Schema:
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def record(description: str, /, **properties: Schema) -> Schema:
    """An object that has exactly these properties."""
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def listing(item: Schema, **more: Schema) -> Schema:
    """``{"data": […]}`` and what else there is."""
    return record("A list.", data={"type": "array", "items": item}, **more)


WEBHOOK: Schema = {
    "type": "object",
    "description": "Where to tell what becomes of the job, signed as Standard Webhooks says.",
    "properties": {
        "url": {
            "type": "string",
            "minLength": 1,
            "maxLength": MOST_URL,
            "pattern": "^https?://",
            "x-expects": f"an http or https URL of a public address, at most {MOST_URL} characters",
        },
        "events": {
            "type": "array",
            "items": {"enum": list(EVENTS.values())},
            "minItems": 1,
            "maxItems": len(EVENTS),
            "uniqueItems": True,
            "description": "All but job.running where it is left out.",
        },
        "secret": {
            "type": "string",
            "pattern": "^whsec_[A-Za-z0-9+/]{32,86}={0,2}$",
            "x-expects": "whsec_ and the base64 of 24 to 64 random bytes",
            "description": "Left out: the key of GET /v1/webhooks/default/secret.",
        },
    },
    "required": ["url"],
    "additionalProperties": False,
}

SUBMISSION: Schema = {
    "type": "object",
    "description": "A job to run.",
    "properties": {
        "model": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "description": "An id of GET /v1/models. Either this or `task` is needed.",
        },
        "task": {
            "type": "string",
            "minLength": 1,
            "maxLength": 100,
            "description": "One of the model's tasks; without a model, the first one for it is taken.",
        },
        "input": {"type": "object", "description": "What the model's input_schema asks for.", "default": {}},
        "priority": {
            "type": "integer",
            "minimum": 0,
            "maximum": 9,
            "default": 5,
            "description": "9 is the most urgent.",
        },
        "max_attempts": {
            "type": "integer",
            "minimum": 1,
            "maximum": 100,
            "description": "Attempts before it fails.",
        },
        "timeout": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": _WEEK,
            "description": "Seconds that one attempt may take: fetching its files, loading its model and "
            "computing. Waiting for its first turn does not count.",
        },
        "run_at": {**_TIME, "description": "Not before this time (RFC 3339)."},
        "expires_in": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": _YEAR,
            "description": "Seconds in which it must have started.",
        },
        "depends_on": {
            "type": "array",
            "items": {
                "type": "string",
                "pattern": f"^{pattern('job')}$",
                "x-expects": "the id of a job",
            },
            "maxItems": MAX_DEPENDENCIES,
            "description": "Jobs that must have succeeded before it is queued. Where one does not, it fails.",
        },
        "group": {**NAME, "description": "A name that jobs share, to count and cancel them together."},
        "metadata": {"type": "object", "maxProperties": 64, "description": "Yours, returned as it is."},
        "webhook": WEBHOOK,
    },
    "anyOf": [{"required": ["model"]}, {"required": ["task"]}],
    "additionalProperties": False,
}

SUBMISSIONS: Schema = {
    "type": "object",
    "description": "Jobs of which all are accepted or none.",
    "properties": {"jobs": {"type": "array", "items": SUBMISSION, "minItems": 1, "maxItems": 1000}},
    "required": ["jobs"],
    "additionalProperties": False,
}

OUTPUT: Schema = record(
    "A file that a job made.",
    id=_TEXT,
    index=_COUNT,
    media_type=_TEXT,
    bytes=_COUNT,
    sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"},
    width=_or_null(_COUNT),
    height=_or_null(_COUNT),
    url=_TEXT,
)

WAITING: Schema = record(
    "Why a job has not started.",
    reason={
        "enum": [
            "behind-others",
            "tenant-limit",
            "no-worker-for-model",
            "loading-model",
            "depends-on",
            "scheduled",
            "retry-backoff",
        ]
    },
    position={
        "type": ["integer", "null"],
        "minimum": 0,
        "description": "Jobs that start before it; null where that cannot be known.",
    },
    estimate={"type": ["number", "null"], "minimum": 0, "description": "Seconds until it starts."},
)
WAITING = {
    **WAITING,
    "properties": {
        **WAITING["properties"],
        "due_at": {**_TIME, "description": "With `retry-backoff`: the next attempt is not before this time."},
    },
}

ERROR: Schema = record(
    "How a job ended badly.",
    type={
        "enum": [
            "out-of-memory",
            "invalid-input",
            "model-unavailable",
            "worker-lost",
            "deadline",
            "canceled",
            "dependency-failed",
            "internal",
        ]
    },
    message=_TEXT,
    retryable={"type": "boolean"},
)

JOB: Schema = record(
    "A job.",
    id={"type": "string", "pattern": "^job_"},
    object={"const": "job"},
    task=_TEXT,
    model=_TEXT,
    status={"enum": [status.value for status in Status]},
    priority=_COUNT,
    input={"type": "object", "description": "With defaults filled in and the seed resolved."},
    progress={
        "type": ["object", "null"],
        "properties": {
            "stage": _TEXT,
            "step": _COUNT,
            "total": _or_null(_COUNT),
            "fraction": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        },
    },
    waiting=_or_null(WAITING),
    outputs={"type": "array", "items": OUTPUT},
    result={"type": ["object", "null"], "description": "What is not a file: text, a transcript, boxes."},
    error=_or_null(ERROR),
    attempts=_COUNT,
    max_attempts=_COUNT,
    group=_or_null(_TEXT),
    depends_on={"type": "array", "items": _TEXT},
    metadata=_OBJECT,
    created_at=_TIME,
    run_at=_or_null(_TIME),
    queued_at=_or_null(_TIME),
    started_at=_or_null(_TIME),
    finished_at=_or_null(_TIME),
    expires_at=_or_null(_TIME),
    timings=record("Seconds.", queue=_or_null(_SECONDS), load=_or_null(_SECONDS), run=_or_null(_SECONDS)),
    urls=record("Where to go on.", self=_TEXT, events=_TEXT, cancel=_TEXT),
)

RECEIPT: Schema = record(
    "What a key without the scope `read` is told of a job that it did not send with this request.",
    id={"type": "string", "pattern": "^job_"},
    object={"const": "job"},
    status={"enum": [status.value for status in Status]},
    urls=record("Where to go on.", self=_TEXT, events=_TEXT, cancel=_TEXT),
)
JOB_OR_RECEIPT: Schema = {"anyOf": [JOB, RECEIPT]}

JOBS: Schema = listing(JOB, next_cursor=_or_null(_TEXT))
ACCEPTED: Schema = record("The jobs, in the order given.", jobs={"type": "array", "items": JOB})

_ATTEMPT: Schema = record(
    "An attempt that has ended other than well.",
    attempt={"type": "integer", "minimum": 1, "description": "Grows from one attempt of a job to the next."},
    worker=_or_null(_TEXT),
    host=_or_null(_TEXT),
    started_at=_or_null(_TIME),
    ended_at=_TIME,
    how={
        "enum": ["failed", "canceled", "handed-back", "worker-lost"],
        "description": "One that was handed back does not count against `max_attempts`.",
    },
    error=_or_null(ERROR),
)
_ATTEMPT = {
    **_ATTEMPT,
    "properties": {
        **_ATTEMPT["properties"],
        "traceback": {**_or_null(_TEXT), "description": "For keys with the scope `admin` alone."},
    },
}
ATTEMPTS: Schema = listing(_ATTEMPT)
LETTER: Schema = record(
    "A job that has failed for good.",
    job=JOB,
    retried_as={**_or_null(_TEXT), "description": "The job that tries it again, the last one of several."},
    attempts={"type": "array", "items": _ATTEMPT},
)
LETTERS: Schema = listing(LETTER, next_cursor=_or_null(_TEXT))
RETRIED: Schema = record(
    "What became of dead letters that were to be tried again.",
    retried={"type": "array", "items": record("A letter and its retry.", job=_TEXT, retried_as=_TEXT)},
    skipped={"type": "array", "items": record("Why a letter was left alone.", job=_TEXT, detail=_TEXT)},
    next_cursor=_or_null(_TEXT),
)

COUNTS: Schema = record(
    "A group of jobs.", group=_TEXT, counts={"type": "object", "additionalProperties": _COUNT}
)

FILE: Schema = record(
    "An uploaded file, as OpenAI describes one.",
    id={"type": "string", "pattern": "^file_"},
    object={"const": "file"},
    bytes=_COUNT,
    created_at={"type": "integer", "description": "Seconds since 1970."},
    filename=_TEXT,
    purpose=_TEXT,
    media_type=_TEXT,
    sha256=_TEXT,
)
FILES: Schema = listing(FILE, object={"const": "list"}, has_more={"type": "boolean"})
FILE_DELETED: Schema = record(
    "The file is gone.", id=_TEXT, object={"const": "file"}, deleted={"const": True}
)
UPLOAD: Schema = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "default": "input", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"},
    },
    "required": ["file"],
    "additionalProperties": False,
}

DELIVERY: Schema = record(
    "One event on its way to a webhook.",
    id={"type": "string", "pattern": "^evt_"},
    object={"const": "webhook.delivery"},
    job=_TEXT,
    type={"enum": list(EVENTS.values())},
    url=_TEXT,
    status={"enum": ["pending", "delivered", "dead"]},
    tries={**_COUNT, "description": "Since the event, or since it was replayed."},
    last_status={"type": ["integer", "null"], "description": "What the receiver answered last."},
    last_error=_or_null(_TEXT),
    created_at=_TIME,
    next_at={**_or_null(_TIME), "description": "When a pending one is tried next."},
    ended_at=_or_null(_TIME),
)
DELIVERY_RECEIPT: Schema = record(
    "What a key without the scope `read` is told of it.",
    id={"type": "string", "pattern": "^evt_"},
    object={"const": "webhook.delivery"},
    status={"enum": ["pending", "delivered", "dead"]},
)
DELIVERY_OR_RECEIPT: Schema = {"anyOf": [DELIVERY, DELIVERY_RECEIPT]}
DELIVERIES: Schema = listing(DELIVERY)
WEBHOOK_SECRET: Schema = record("What signs webhooks.", key={"type": "string", "pattern": "^whsec_"})

MODEL: Schema = record(
    "A model of the catalog.",
    id=_TEXT,
    object={"const": "model"},
    created={"type": "integer"},
    owned_by=_TEXT,
    task={"type": "string", "description": "What a job means that names the model and no task."},
    tasks={"type": "array", "items": _TEXT, "description": "What a job's `task` may be, `task` first."},
    input_schema={"type": "object", "description": "JSON Schema of a job's `input`, for `task`."},
    input_schemas={
        "type": "object",
        "additionalProperties": {"type": "object"},
        "description": "JSON Schema of a job's `input`, for each of `tasks`.",
    },
    output={"type": "string", "description": "Media type of the outputs."},
    state={"enum": ["ready", "loaded", "missing"]},
    queue=_TEXT,
    license=_or_null(_TEXT),
    revision=_or_null(_TEXT),
    description=_TEXT,
)
MODELS: Schema = listing(MODEL, object={"const": "list"}, next_cursor=_or_null(_TEXT))

WORKER: Schema = record(
    "A live worker.",
    id=_TEXT,
    host=_TEXT,
    pid=_COUNT,
    device=_TEXT,
    slots=_COUNT,
    queues={"type": "array", "items": _TEXT},
    running={"type": "array", "items": _TEXT},
    models={"type": "array", "items": _TEXT},
    loading=_or_null(_TEXT),
    memory=_OBJECT,
    forwards=_OBJECT,
    trouble={
        **_or_null(_TEXT),
        "description": "Why it takes no jobs: it cannot write, is about to end, or has taken itself out. "
        "Null where it takes them.",
    },
    started_at=_TIME,
    last_seen=_TIME,
)
WORKERS: Schema = listing(WORKER)

QUEUE: Schema = record(
    "A queue with jobs or workers.",
    name=_TEXT,
    queued={**_COUNT, "description": "Jobs that a worker may take now."},
    held_back={
        **_COUNT,
        "description": "Jobs, queued as well, that wait until their tenant has less running.",
    },
    oldest_seconds={
        **_or_null(_SECONDS),
        "description": "How long the one of the `queued` has waited that has waited longest.",
    },
    workers=_COUNT,
)
QUEUES: Schema = listing(QUEUE)

HEALTH: Schema = record("How it is.", status=_TEXT)
READINESS: Schema = {
    **record(
        "Whether submissions are accepted.",
        status={"enum": ["ready", "degraded"]},
        degraded={"type": "array", "items": _TEXT, "description": "What does not work beside."},
    ),
    "required": ["status"],
}

PROBLEM: Schema = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "instance": _TEXT,
        "id": _TEXT,
        "limit": record("Which limit was met.", name=_TEXT, size=_COUNT),
        "errors": {
            "type": "array",
            "items": record("One fault of one field.", pointer=_TEXT, detail=_TEXT),
        },
    },
    "required": ["type", "title", "status", "detail", "instance"],
}

#: those that the OpenAPI document names once and refers to
NAMED: Mapping[str, Schema] = {
    "Submission": SUBMISSION,
    "Submissions": SUBMISSIONS,
    "Job": JOB,
    "JobReceipt": RECEIPT,
    "JobList": JOBS,
    "AttemptList": ATTEMPTS,
    "DeadLetter": LETTER,
    "DeadLetterList": LETTERS,
    "DeadLettersRetried": RETRIED,
    "Output": OUTPUT,
    "Waiting": WAITING,
    "JobError": ERROR,
    "Group": COUNTS,
    "File": FILE,
    "FileList": FILES,
    "Delivery": DELIVERY,
    "DeliveryReceipt": DELIVERY_RECEIPT,
    "DeliveryList": DELIVERIES,
    "Model": MODEL,
    "ModelList": MODELS,
    "Worker": WORKER,
    "WorkerList": WORKERS,
    "Queue": QUEUE,
    "QueueList": QUEUES,
    "Problem": PROBLEM,
}
