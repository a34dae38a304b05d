"""A client that knows the OpenAPI document, a worker's steps by hand, and small things to send."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from flask import Flask
from jsonschema_rs import Draft202012Validator
from werkzeug.test import TestResponse

from api.dialects import DIALECTS
from api.native.schemas import PROBLEM
from api.routing.operations import Operation
from api.usecases.services import Services
from shared.jobs.entities import Failed, Finish, NewOutput, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.workers import Worker

_PROBLEM = Draft202012Validator(dict(PROBLEM), validate_formats=True)


def operations() -> list[Operation]:
    """Every operation of every dialect."""
    return [operation for dialect in DIALECTS for operation in dialect.operations]


class Api:
    """A client that fails the test when an answer is not what the OpenAPI document declares."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._client = app.test_client()
        self._operations: dict[str, Operation] = {operation.id: operation for operation in operations()}

    def call(self, method: str, path: str, **options: Any) -> TestResponse:
        answer = self._client.open(path, method=method, **options)
        if method in ("GET", "POST", "DELETE"):
            self._check(method, path, answer)
        return answer

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.call("GET", path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> TestResponse:
        return self.call("POST", path, **({"json": json} if json is not None else {}), **options)

    def delete(self, path: str, **options: Any) -> TestResponse:
        return self.call("DELETE", path, **options)

    def submit(self, **body: Any) -> dict[str, Any]:
        """A job for the model `fake`."""
        answer = self.post("/v1/jobs", {"model": "fake", "input": {"prompt": "a red apple"}, **body})
        assert answer.status_code == 202, answer.text
        return dict(answer.json or {})

    def upload(
        self, content: bytes, filename: str = "a.png", media_type: str = "image/png", **fields: str
    ) -> Any:
        answer = self.post("/v1/files", data={"file": (io.BytesIO(content), filename, media_type), **fields})
        assert answer.status_code == 201, answer.text
        return answer.json

    def _check(self, method: str, path: str, answer: TestResponse) -> None:
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        if answer.status_code >= 400:
            assert answer.mimetype == "application/problem+json", answer.text
            _PROBLEM.validate(answer.json)
            assert answer.json is not None and answer.json["status"] == answer.status_code
            return
        endpoint, _ = self._app.url_map.bind("localhost").match(path.partition("?")[0], method)
        if endpoint not in self._operations:
            return
        declared = self._operations[str(endpoint)].answers
        assert answer.status_code in declared, f"{endpoint} does not declare {answer.status_code}"
        schema = declared[answer.status_code].schema
        if schema is not None:
            Draft202012Validator(dict(schema), validate_formats=True).validate(answer.json)


def faults(answer: TestResponse) -> dict[str, str]:
    """Pointer and detail of each fault of a problem."""
    assert answer.json is not None
    return {fault["pointer"]: fault["detail"] for fault in answer.json["errors"]}


def jobs_there(services: Services) -> int:
    return sum(services.jobs.counts().values())


def png(width: int = 2, height: int = 2) -> bytes:
    """A small black picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\0\0\0" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class Hand:
    """A worker's steps, done by hand where a test needs a job in a certain state."""

    def __init__(self, services: Services, queue: str = "default") -> None:
        self.services, self.queue = services, queue
        self.worker = Worker(id="wrk_hand", host="here", pid=1, device="cpu", slots=1, queues=(queue,))
        self.leases = Leases(
            services.database, services.settings.lease_seconds, running_limit=services.tenants.running_limit
        )
        services.registry.heartbeat(self.worker)

    def claim(self) -> Any:
        [job] = self.leases.claim(self.worker.id, self.queue)
        return job

    def fail(self, job: Any, message: str = "broke", **how: Any) -> Any:
        failure = Failed(**{"type": "internal", "message": message, **how})
        self.leases.finish([Finish(job.id, job.attempt, failure)])
        return self.services.jobs.get(job.id)

    def succeed(self, job: Any, content: bytes = b"", media_type: str = "image/png", **ending: Any) -> Any:
        outputs: tuple[NewOutput, ...] = ()
        if content:
            stored = self.services.storage.write(f"outputs/{job.id}/{job.attempt}/0.png", content)
            outputs = (
                NewOutput(
                    index=0, media_type=media_type, bytes=stored.bytes, sha256=stored.sha256, key=stored.key
                ),
            )
        finish = Finish(job.id, job.attempt, Succeeded(outputs=outputs, **ending))
        self.leases.finish([finish])
        self.services.events.publish(job.id, "status", {"status": "succeeded"})
        self.services.events.publish(job.id, "done", {"status": "succeeded"})
        return self.services.jobs.get(job.id)
