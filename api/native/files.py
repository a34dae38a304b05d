"""Uploaded files."""

from __future__ import annotations

from flask import Response

from api.http import file_responses
from api.native import schemas, serialization
from api.routing.operations import Answer, Call, Group
from api.usecases.uploads import receive
from shared.errors import NotFound
from shared.files.store import FileRecord
from shared.ids import is_id, pattern

group = Group("files")

_SHORT = {"type": "string", "minLength": 1, "maxLength": 64}


def _file(call: Call, id: str) -> FileRecord:
    if not is_id("file", id):
        raise NotFound("file", id[:100])
    return call.services.files.get(id, tenant=call.tenant)


@group.operation(
    "POST",
    "/v1/files",
    summary="Upload a file",
    scope="submit",
    form=schemas.UPLOAD,
    answers={201: Answer("The file.", schemas.FILE, headers={"Location": "The file's URL."})},
)
def upload_file(call: Call) -> Response:
    record = receive(call.services, call.request, call.tenant)
    return serialization.answer(serialization.file(record), 201, {"Location": f"/v1/files/{record.id}"})


@group.operation(
    "GET",
    "/v1/files",
    summary="List files, newest first",
    query={
        "purpose": _SHORT,
        "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
        "after": {
            "type": "string",
            "pattern": f"^{pattern('file')}$",
            "description": "The id of the last file of the page before.",
            "x-expects": "the id of a file",
        },
    },
    answers={200: Answer("One page.", schemas.FILES)},
)
def list_files(call: Call) -> Response:
    limit, after = call.query["limit"], call.query.get("after")
    found = call.services.files.list(
        call.tenant, purpose=call.query.get("purpose"), limit=limit + 1, after=after
    )
    page = [serialization.file(record) for record in found[:limit]]
    return serialization.answer({"object": "list", "data": page, "has_more": len(found) > limit})


@group.operation(
    "GET", "/v1/files/{id}", summary="One file", answers={200: Answer("The file.", schemas.FILE)}
)
def get_file(call: Call, id: str) -> Response:
    return serialization.answer(serialization.file(_file(call, id)))


@group.operation(
    "GET",
    "/v1/files/{id}/content",
    summary="A file's bytes",
    headers={"Range": "Part of it.", "If-None-Match": "The `ETag` of an earlier answer."},
    answers={
        200: Answer("All of it.", media_type="application/octet-stream"),
        206: Answer("The range.", media_type="application/octet-stream"),
        302: Answer("Where it lies."),
        304: Answer("It is as it was."),
    },
)
def get_file_content(call: Call, id: str) -> Response:
    record = _file(call, id)
    return file_responses.serve(
        call.services.storage,
        call.request,
        key=record.key,
        media_type=record.media_type,
        sha256=record.sha256,
        filename=record.filename,
        download=True,
    )


@group.operation(
    "DELETE",
    "/v1/files/{id}",
    summary="Delete a file",
    scope="submit",
    answers={200: Answer("It is gone.", schemas.FILE_DELETED)},
)
def delete_file(call: Call, id: str) -> Response:
    if not is_id("file", id):
        raise NotFound("file", id[:100])
    call.services.storage.delete(call.services.files.delete(id, tenant=call.tenant))
    call.services.limits.storage.forget(call.tenant)
    return serialization.answer({"id": id, "object": "file", "deleted": True})
