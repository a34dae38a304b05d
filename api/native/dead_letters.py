"""Jobs that have failed for good: look at them with the history of their attempts, and try them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response

from api.native import schemas
from api.native.jobs import own_job
from api.native.serialization import answer, answer_list, attempt
from api.routing.operations import Answer, Call, Group
from api.usecases.long_poll import present_jobs
from api.usecases.submit import retry, when
from shared.errors import Conflict, NotFound, OverLimit
from shared.ids import new_id, pattern
from shared.jobs.dead_letters import Filter

group = Group("dead letters")

#: letters that one call tries again: without a word, and at most
_USUAL, _MOST = 50, 200

_FILTER: Mapping[str, Mapping[str, Any]] = {
    "task": schemas.SHORT,
    "model": schemas.SHORT,
    "error_type": schemas.ERROR["properties"]["type"],
    "group": schemas.SHORT,
    "since": {"type": "string", "format": "date-time", "description": "Failed at this time or later."},
}
#: after which letter a call goes on, and where all of them end: what was made since the first call, and
#: has failed by now, is not tried again by the next one
_CURSOR: Mapping[str, Any] = {
    "type": "string",
    "pattern": f"^{pattern('job')}:{pattern('job')}$",
    "description": "`next_cursor` of the answer before.",
    "x-expects": "the next_cursor of an earlier answer",
}


def _filter(given: Mapping[str, Any]) -> Filter:
    chosen = {name: given.get(name) for name in ("task", "model", "error_type", "group")}
    return Filter(**chosen, since=when(given.get("since"), "/since"))


@group.operation(
    "GET",
    "/v1/jobs/{id}/attempts",
    summary="The attempts of a job that have ended other than well",
    answers={
        200: Answer(
            "The first one first. One that runs, or has succeeded, is in the job itself.", schemas.ATTEMPTS
        )
    },
)
def list_attempts(call: Call, id: str) -> Response:
    job = own_job(call, id)
    history = call.services.attempts.of([job.id])[job.id]
    return answer({"data": [attempt(one, secret=call.caller.is_admin) for one in history]})


@group.operation(
    "GET",
    "/v1/dead-letters",
    summary="Jobs that have failed, newest first, each with its attempts",
    query={**_FILTER, "limit": schemas.PAGE, "cursor": schemas.CURSOR},
    answers={200: Answer("One page.", schemas.LETTERS)},
)
def list_dead_letters(call: Call) -> Response:
    services = call.services
    page = services.letters.list(
        call.tenant, _filter(call.query), limit=call.query["limit"], cursor=call.query.get("cursor")
    )
    history = services.attempts.of([job.id for job in page.items])
    letters = [
        {
            "job": shown,
            "retried_as": job.retried_as,
            "attempts": [attempt(one, secret=call.caller.is_admin) for one in history[job.id]],
        }
        for job, shown in zip(page.items, present_jobs(services, page.items), strict=True)
    ]
    return answer_list("data", letters, next_cursor=page.next_cursor)


@group.operation(
    "POST",
    "/v1/dead-letters/retry",
    summary="Try dead letters again, the oldest first, none of them twice",
    scope="submit",
    reads=True,
    body={
        "type": "object",
        "description": "Which ones: those that fit and were not tried again yet.",
        "properties": {
            **_FILTER,
            "limit": {"type": "integer", "minimum": 1, "maximum": _MOST, "default": _USUAL},
            "cursor": _CURSOR,
        },
        "additionalProperties": False,
    },
    answers={200: Answer("What is tried again. Where there may be more, `next_cursor`.", schemas.RETRIED)},
)
def retry_dead_letters(call: Call) -> Response:
    which, limit = _filter(call.body), int(call.body.get("limit", _USUAL))
    after, _, until = call.body.get("cursor", f":{new_id('job')}").partition(":")
    found = call.services.letters.untried(call.tenant, which, limit=limit + 1, after=after, until=until)
    retried, skipped = [], []
    more = len(found) > limit
    for letter in found[:limit]:
        try:
            job = retry(call.services, call.caller, letter, once=True)
            retried.append({"job": letter, "retried_as": job.id})
        except Conflict as error:
            skipped.append({"job": letter, "detail": str(error)})
        except NotFound:  # deleted in the meantime
            pass
        except OverLimit:
            if not retried:
                raise
            more = True
            break
        after = letter
    cursor = f"{after}:{until}" if more else None
    return answer({"retried": retried, "skipped": skipped, "next_cursor": cursor})
