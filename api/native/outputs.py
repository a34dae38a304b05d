"""What jobs made."""

from __future__ import annotations

import mimetypes

from flask import Response

from api.http import file_responses
from api.routing.operations import Answer, Call, Group
from shared.errors import NotFound
from shared.ids import is_id

group = Group("outputs")


@group.operation(
    "GET",
    "/v1/outputs/{id}",
    summary="An output's bytes",
    headers={"Range": "Part of it.", "If-None-Match": "The `ETag` of an earlier answer."},
    answers={
        200: Answer("All of it, with its own media type.", media_type="*/*"),
        206: Answer("The range.", media_type="*/*"),
        302: Answer("Where it lies."),
        304: Answer("It is as it was."),
    },
)
def get_output(call: Call, id: str) -> Response:
    if not is_id("out", id):
        raise NotFound("output", id[:100])
    output = call.services.jobs.output(id, tenant=call.tenant)
    extension = mimetypes.guess_extension(output.media_type) or ""
    return file_responses.serve(
        call.services.storage,
        call.request,
        key=output.key,
        media_type=output.media_type,
        sha256=output.sha256,
        filename=f"{output.job_id}-{output.index}{extension}",
    )
