"""Jobs: submit, look, follow, cancel, retry, delete."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from flask import Response

from api.http.problems import Busy
from api.native import event_stream, schemas
from api.native.serialization import answer, answer_list
from api.routing.operations import Answer, Call, Group
from api.usecases.cancel import cancel
from api.usecases.long_poll import (
    MOST_SECONDS,
    preferred_wait,
    present_accepted,
    present_job,
    present_jobs,
    until_terminal,
)
from api.usecases.submit import retry, submit, submit_all
from shared.errors import InvalidInput, NotFound, Unavailable
from shared.files.media_types import HEAD, sniff
from shared.ids import is_id
from shared.jobs.entities import Job
from shared.states import Status

group = Group("jobs")

_TYPES = ("status", "progress", "preview", "token", "output", "done")


def own_job(call: Call, id: str) -> Job:
    """The job, if it is the caller's. Raises NotFound."""
    if not is_id("job", id):
        raise NotFound("job", id[:100])
    return call.services.jobs.get(id, tenant=call.tenant)


def _as_sent(call: Call, shown: dict[str, Any]) -> dict[str, Any]:
    """A submitted job for who may see no more than what was sent: without what became of it, which is there
    where the request was a repeated one, or waited for the end."""
    if call.caller.may_read:
        return shown
    return {**shown, "progress": None, "outputs": [], "result": None, "error": None}


def _receipt(call: Call, job: Job) -> dict[str, Any]:
    """A job that an operation named; for who may not read, that it was done."""
    shown = present_job(call.services, job)
    return (
        shown if call.caller.may_read else {name: shown[name] for name in ("id", "object", "status", "urls")}
    )


@group.operation(
    "POST",
    "/v1/jobs",
    summary="Submit a job",
    scope="submit",
    headers={
        "Prefer": f"`wait=N`: answer when the job has ended, or after N seconds, at most {MOST_SECONDS:g}.",
        "Idempotency-Key": "With the same body again it gives the same job; with another body, an error.",
    },
    header_schemas={"Idempotency-Key": {"pattern": r"^[\x21-\x7e]{1,255}$"}},
    body=schemas.SUBMISSION,
    answers={
        202: Answer(
            "Accepted: the job is persisted.",
            schemas.JOB,
            headers={
                "Location": "The job's URL.",
                "Idempotency-Replayed": "`true` where the job was there already.",
                "Preference-Applied": "The wait that was heeded.",
            },
        ),
        200: Answer("The job ended within the preferred wait.", schemas.JOB),
    },
)
def submit_job(call: Call) -> Response:
    given = call.request.environ
    accepted = submit(call.services, call.caller, call.body, given.get("HTTP_IDEMPOTENCY_KEY"))
    said = {"Location": f"/v1/jobs/{accepted.job.id}"}
    if accepted.replayed:
        said["Idempotency-Replayed"] = "true"
    seconds = preferred_wait(given.get("HTTP_PREFER"))
    if not seconds:
        return answer(_as_sent(call, present_accepted(call.services, accepted)), 202, said)
    said["Preference-Applied"] = f"wait={seconds:g}"
    call.release_body()
    job = until_terminal(call.services, call.caller, accepted.job, seconds, call.has_left)
    shown = _as_sent(call, present_job(call.services, job))
    return answer(shown, 200 if job.is_terminal else 202, said)


@group.operation(
    "POST",
    "/v1/jobs/bulk",
    summary="Submit many jobs, all or none",
    scope="submit",
    body=schemas.SUBMISSIONS,
    answers={202: Answer("All are persisted.", schemas.ACCEPTED)},
)
def submit_jobs(call: Call) -> Response:
    if "Idempotency-Key" in call.request.headers:
        raise InvalidInput.at("", "Idempotency-Key is for single jobs; POST /v1/jobs takes it")
    made = submit_all(call.services, call.caller, call.body["jobs"])
    return answer_list("jobs", [_as_sent(call, job) for job in present_jobs(call.services, made)], 202)


@group.operation(
    "GET",
    "/v1/jobs",
    summary="List jobs, newest first",
    query={
        "status": {"type": "string", "enum": [status.value for status in Status]},
        "task": schemas.SHORT,
        "model": schemas.SHORT,
        "group": schemas.SHORT,
        "limit": schemas.PAGE,
        "cursor": schemas.CURSOR,
    },
    answers={200: Answer("One page.", schemas.JOBS)},
)
def list_jobs(call: Call) -> Response:
    status = call.query.get("status")
    page = call.services.jobs.list(
        call.tenant,
        status=None if status is None else Status(status),
        task=call.query.get("task"),
        model=call.query.get("model"),
        group=call.query.get("group"),
        limit=call.query["limit"],
        cursor=call.query.get("cursor"),
    )
    return answer_list("data", present_jobs(call.services, page.items), next_cursor=page.next_cursor)


@group.operation(
    "GET",
    "/v1/jobs/{id}",
    summary="One job",
    query={
        "wait": {
            "type": "number",
            "minimum": 0,
            "maximum": MOST_SECONDS,
            "default": 0,
            "description": "Answer when it has ended, after so many seconds at the latest.",
        }
    },
    headers={"If-None-Match": "The `ETag` of an earlier answer."},
    answers={
        200: Answer("The job.", schemas.JOB, headers={"ETag": "Changes when the job does."}),
        304: Answer("The job is as it was.", None),
    },
)
def get_job(call: Call, id: str) -> Response:
    job = until_terminal(call.services, call.caller, own_job(call, id), call.query["wait"], call.has_left)
    response = answer(present_job(call.services, job))
    response.add_etag()
    response.headers["Cache-Control"] = "private, no-cache"
    response.make_conditional(call.request.environ)
    return response


@group.operation(
    "GET",
    "/v1/jobs/{id}/events",
    summary="Follow a job",
    headers={"Last-Event-ID": "Go on after this event."},
    header_schemas={"Last-Event-ID": {"pattern": r"^\d{1,15}-\d{1,9}$"}},
    answers={
        200: Answer(f"Events of the types {', '.join(_TYPES)}.", media_type="text/event-stream"),
        204: Answer("Everything was seen already: do not come back."),
    },
)
def follow_job(call: Call, id: str) -> Response:
    after = event_stream.position(call.request.headers.get("Last-Event-ID"))
    job = own_job(call, id)
    if event_stream.is_over(job, after):
        return Response(status=204)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    if call.request.method == "HEAD":
        return Response(mimetype="text/event-stream", headers=headers)
    waiting, holder = call.services.waiting, call.caller.waits_as
    if not waiting.take(holder):
        raise Busy("too many of your requests wait for events already; ask again, or poll the job")
    response = Response(
        event_stream.events(call.services, job, after, call.has_left),
        mimetype="text/event-stream",
        headers=headers,
    )
    response.call_on_close(lambda: waiting.give_back(holder))
    return response


@group.operation(
    "GET",
    "/v1/jobs/{id}/preview",
    summary="The latest preview image",
    answers={200: Answer("What there is so far.", media_type="image/png")},
)
def get_preview(call: Call, id: str) -> Response:
    job = own_job(call, id)
    if (image := call.services.events.preview(job.id)) is None:
        raise NotFound("preview of job", id)
    media_type, _ = sniff(image[:HEAD])
    return Response(image, mimetype=media_type, headers={"Cache-Control": "private, no-store"})


@group.operation(
    "POST",
    "/v1/jobs/{id}/cancel",
    summary="Cancel a job",
    scope="submit",
    answers={
        202: Answer("A waiting job has ended, a running one stops at its next step.", schemas.JOB_OR_RECEIPT)
    },
)
def cancel_job(call: Call, id: str) -> Response:
    if not is_id("job", id):
        raise NotFound("job", id[:100])
    job = cancel(call.services, call.caller, id)
    return answer(_receipt(call, job), 202)


@group.operation(
    "POST",
    "/v1/jobs/{id}/retry",
    summary="Run an ended job again, as a new one",
    scope="submit",
    answers={201: Answer("The new job.", schemas.JOB_OR_RECEIPT, headers={"Location": "The new job's URL."})},
)
def retry_job(call: Call, id: str) -> Response:
    job = retry(call.services, call.caller, own_job(call, id).id)
    return answer(_receipt(call, job), 201, {"Location": f"/v1/jobs/{job.id}"})


@group.operation(
    "DELETE",
    "/v1/jobs/{id}",
    summary="Delete an ended job and its files",
    scope="submit",
    answers={204: Answer("It is gone.")},
)
def delete_job(call: Call, id: str) -> Response:
    if not is_id("job", id):
        raise NotFound("job", id[:100])
    services = call.services
    for key in services.jobs.delete(id, tenant=call.tenant):
        services.storage.delete(key)
    services.storage.delete_prefix(f"checkpoints/{id}")
    services.limits.storage.forget(call.tenant)
    with suppress(Unavailable):  # Redis forgets them by itself in a day
        services.events.forget(id)
    return Response(status=204)
