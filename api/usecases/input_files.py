"""Files that a job's input names: each must be there, be the caller's, and be of a kind the model takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from api.auth.limits import Reservation
from api.usecases.services import Services
from shared.errors import InvalidInput, NotFound, Refused
from shared.files.holds import Read
from shared.files.media_types import KINDS, UNKNOWN, decode_data_uri, fits
from shared.files.store import JOB_INPUT, FileRecord, NewFile
from shared.ids import is_id, new_id
from shared.jobs.entities import no_such_output
from shared.jobs.references import is_reference
from shared.outward import check_url, is_url
from shared.schema.marks import changed
from shared.states import Status

_FORMS = (
    'a file_… id of POST /v1/files, an out_… id of a job\'s output, {"job": "job_…", "output": 0}, '
    "a data: URI, or an http(s) URL"
)

#: files that the inputs of one request may name: each is looked up, and those in data: URIs are stored
MOST_FILES = 2000


class Inputs:
    """Settles the files of one submission; what it stored can be taken back when the submission fails."""

    def __init__(self, services: Services, tenant: str, room: Reservation) -> None:
        """``room``: of the tenant's quota, which grows with what is stored."""
        self._services, self._tenant, self._room = services, tenant, room
        self._files = 0
        self._made: list[FileRecord] = []
        self._reads: list[Read] = []

    def settle(self, schema: Mapping[str, Any], value: Any, pointer: str) -> Any:
        """The input with every ``data:`` URI stored and replaced by the id of its file.

        ``schema`` says which strings are files (``x-file``). Raises InvalidInput, TooLarge, OverLimit,
        Unavailable.
        """
        return changed(schema, value, "x-file", self._settle, pointer)

    def _settle(self, kind: str, value: Any, pointer: str) -> Any:
        if isinstance(value, str):
            return self._file(kind, value, pointer)
        if is_reference(value):
            return self._refer(kind, value["job"], int(value["output"]), pointer)
        return value  # null, say

    def take_reads(self) -> tuple[Read, ...]:
        """The files that the values settled since the last call name, other than by URL."""
        reads, self._reads = self._reads, []
        return tuple(reads)

    def discard(self) -> None:
        """Remove what was stored: the job that needs it was not made."""
        for record in self._made:
            self._services.files.delete(record.id)
            self._services.storage.delete(record.key)
        self._made.clear()

    def _file(self, kind: str, value: str, pointer: str) -> str:
        self._files += 1
        if self._files > MOST_FILES:
            raise InvalidInput.at(pointer, f"is one file too many: one request may name {MOST_FILES}")
        if value[:5].lower() == "data:":
            record = self._store(kind, value, pointer)
            self._reads.append(Read(pointer, record.id))
            return record.id
        if is_id("file", value) or is_id("out", value):
            get = self._services.files.get if is_id("file", value) else self._services.jobs.output
            self._check(kind, self._there(get, value, pointer), pointer)
            self._reads.append(Read(pointer, value))
            return value
        if is_url(value):
            return self._url(value, pointer)
        raise InvalidInput.at(pointer, f"must be {_FORMS}")

    def _url(self, value: str, pointer: str) -> str:
        """The URL, which the worker fetches; where its name leads is seen then."""
        try:
            check_url(value, allow_private=self._services.settings.input_allow_private)
        except Refused as error:
            raise InvalidInput.at(pointer, str(error)) from None
        return value

    def _refer(self, kind: str, job_id: str, output: int, pointer: str) -> dict[str, Any]:
        """Note a job whose output is the file; where it has succeeded, that output must be there."""
        try:
            job = self._services.jobs.get(job_id, tenant=self._tenant)
        except NotFound as error:
            raise InvalidInput.at(f"{pointer}/job", str(error)) from None
        self._reads.append(Read(pointer, job.id, output))
        if job.status is Status.SUCCEEDED:
            if output >= len(job.outputs):
                raise InvalidInput.at(f"{pointer}/output", no_such_output(job, output))
            self._check(kind, job.outputs[output].media_type, pointer)
        return {"job": job_id, "output": output}

    def _there(self, get: Callable[..., Any], file_id: str, pointer: str) -> str:
        """The media type of a file or an output that exists for the tenant."""
        try:
            return str(get(file_id, tenant=self._tenant).media_type)
        except NotFound as error:
            raise InvalidInput.at(pointer, f"{error}; give {_FORMS}") from None

    def _store(self, kind: str, uri: str, pointer: str) -> FileRecord:
        media_type, content = decode_data_uri(uri, pointer)
        self._check(kind, media_type, pointer)
        self._room.grow(len(content))
        key = f"files/{new_id('file')}"
        stored = self._services.storage.write(key, content)
        try:
            record = self._services.files.add(
                NewFile(
                    tenant=self._tenant,
                    filename=pointer.rpartition("/")[2],
                    purpose=JOB_INPUT,
                    media_type=media_type,
                    bytes=stored.bytes,
                    sha256=stored.sha256,
                    key=key,
                )
            )
        except BaseException:
            self._services.storage.delete(key)
            raise
        self._made.append(record)
        return record

    def _check(self, kind: str, media_type: str, pointer: str) -> None:
        if media_type != UNKNOWN and not fits(kind, media_type):
            raise InvalidInput.at(pointer, f"must be {kind} ({', '.join(KINDS[kind])}), not {media_type}")
