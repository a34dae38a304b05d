"""Jobs that share a name."""

from __future__ import annotations

from collections import Counter

from flask import Response

from api.native import schemas
from api.native.serialization import answer
from api.routing.operations import Answer, Call, Group
from api.usecases import cancel
from shared.errors import NotFound

group = Group("groups")


def _counts(call: Call, name: str) -> Response:
    counts = call.services.jobs.counts(tenant=call.tenant, group=name)
    if not counts:
        raise NotFound("group", name)
    return answer({"group": name, "counts": counts})


def _check(name: str) -> None:
    if "\x00" in name or len(name) > 200:
        raise NotFound("group", name[:100])


@group.operation(
    "GET",
    "/v1/groups/{name}",
    summary="How many jobs of a group are in each status",
    answers={200: Answer("The group.", schemas.COUNTS)},
)
def get_group(call: Call, name: str) -> Response:
    _check(name)
    return _counts(call, name)


@group.operation(
    "POST",
    "/v1/groups/{name}/cancel",
    summary="Cancel every job of a group that has not ended",
    scope="submit",
    answers={202: Answer("What waited has ended, what runs stops at its next step.", schemas.COUNTS)},
)
def cancel_group(call: Call, name: str) -> Response:
    _check(name)
    touched = cancel.cancel_group(call.services, call.caller, name)
    if not call.caller.may_read:  # it learns of those jobs that this request canceled
        counts = Counter(job.shown_status.value for job in touched)
        return answer({"group": name, "counts": counts}, 202)
    response = _counts(call, name)
    response.status_code = 202
    return response
