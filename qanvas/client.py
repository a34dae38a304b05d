"""The client, for programs without asyncio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from qanvas import calls, connection
from qanvas.calls import Options
from qanvas.connection import Connection
from qanvas.errors import JobFailed
from qanvas.protocol import FileSource, Flow, Request, T, call_json
from qanvas.records import (
    Attempt,
    DeadLetter,
    Event,
    File,
    Group,
    JobRecord,
    Model,
    OutputRecord,
    Queue,
    Retried,
    Worker,
)
from qanvas.sse import EventStream
from qanvas.transport import Transport


class Client(Connection):
    """A connection to one server; threads may share it. Close it, or use it in a ``with`` block."""

    def __init__(self, url: str | None = None, key: str | None = None, *, patience: float = 30.0) -> None:
        super().__init__(url, key, patience=patience)
        self._transport = Transport(self.url, self._key)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self, method: str, path: str, *, params: Mapping[str, str | int] | None = None, json: Any = None
    ) -> dict[str, Any]:
        """Any call whose answer is a JSON object, for what this client has no method for."""
        request = Request(method, path, params=params or {}, json=json)
        return self._run(call_json(request, self._patience))

    # Jobs

    def submit(
        self,
        model: str | None,
        input: Mapping[str, Any] | None = None,
        /,
        *,
        options: Options | None = None,
        **inputs: Any,
    ) -> Job:
        """Submit a job and return it at once. A ``Path``, bytes or a file object in the input is uploaded.

        ``model`` may be None where the options name a task. An idempotency key goes with every submission, so
        that it can be repeated after a broken connection without a second job.
        """
        return self._job(
            self._run(calls.submit(self._patience, model, {**(input or {}), **inputs}, options or {}))
        )

    def submit_many(self, bodies: Iterable[Mapping[str, Any]]) -> list[Job]:
        """Submit up to 1,000 jobs, all or none; each body is as ``POST /v1/jobs`` takes it."""
        return [self._job(one) for one in self._run(calls.submit_many(self._patience, bodies))]

    def run(
        self,
        model: str | None,
        input: Mapping[str, Any] | None = None,
        /,
        *,
        options: Options | None = None,
        **inputs: Any,
    ) -> Job:
        """Submit a job and wait for its success. Raises JobFailed when it ends otherwise."""
        job = (self.submit(model, input, options=options, **inputs)).wait()
        if job.status != "succeeded":
            raise JobFailed(job)
        return job

    def job(self, id: str) -> Job:
        return self._job(self._run(calls.one(dict, self._patience, "GET", calls.path("jobs", id))))

    def jobs(
        self,
        *,
        status: str | None = None,
        task: str | None = None,
        model: str | None = None,
        group: str | None = None,
        page: int = 50,
    ) -> Iterator[Job]:
        """All jobs that fit, newest first; ``page`` are fetched at a time."""
        which: dict[str, str | int | None] = {"status": status, "task": task, "model": model, "group": group}
        return self._each(calls.listing("/v1/jobs", self._job, **which, limit=page))

    def wait(self, job: JobRecord, seconds: float | None = None) -> Job:
        """The job when it has ended, by long polls. Raises WaitTimeout when it has not after ``seconds``."""
        if job.is_terminal:
            return self._job(dict(job.raw))
        flow = calls.wait(self._patience, job, seconds, connection.until(seconds))
        return self._job(self._run(flow))

    def cancel(self, id: str) -> Job:
        """Cancel a job: one that waits at once, one that runs at its next step.

        Raises Conflict if it has ended.
        """
        path = calls.path("jobs", id, "cancel")
        return self._job(self._run(calls.one(dict, self._patience, "POST", path)))

    def retry(self, id: str) -> Job:
        """Run an ended job again as a new one, which is returned."""
        path = calls.path("jobs", id, "retry")
        return self._job(self._run(calls.one(dict, self._patience, "POST", path)))

    def delete(self, id: str) -> None:
        """Delete an ended job and its files."""
        self._run(calls.nothing(self._patience, "DELETE", calls.path("jobs", id)))

    def attempts(self, id: str) -> list[Attempt]:
        """The attempts of a job that ended other than well, the first one first."""
        listing = calls.listing(calls.path("jobs", id, "attempts"), Attempt.from_json)
        return list(self._each(listing))

    def events(self, id: str, *, after: str | None = None) -> Iterator[Event]:
        """What happens to a job, from its beginning or behind the event with the id ``after``, until it ends.
        A broken connection is made again, and goes on where it broke."""
        return self._transport.events(EventStream(id, self._patience, after))

    def tokens(self, id: str) -> Iterator[str]:
        """The pieces of a text as they are generated."""
        for event in self.events(id):
            if event.type == "token":
                yield str(event.data["text"])

    def previews(self, id: str) -> Iterator[bytes]:
        """Preview images (PNG) of a running job; one that is replaced before it is fetched is left out."""
        last = b""
        for event in self.events(id):
            if event.type == "preview":
                image = self.preview(id)
                if image != last:
                    last = image
                    yield image

    def preview(self, id: str) -> bytes:
        """The latest preview image (PNG). Raises NotFound before there is one."""
        return self._run(calls.content(self._patience, calls.path("jobs", id, "preview")))

    # Groups and dead letters

    def group(self, name: str) -> Group:
        return self._run(calls.one(Group.from_json, self._patience, "GET", calls.path("groups", name)))

    def cancel_group(self, name: str) -> Group:
        """Cancel every job of a group that has not ended."""
        path = calls.path("groups", name, "cancel")
        return self._run(calls.one(Group.from_json, self._patience, "POST", path))

    def dead_letters(
        self,
        *,
        task: str | None = None,
        model: str | None = None,
        error_type: str | None = None,
        group: str | None = None,
        since: str | None = None,
        page: int = 50,
    ) -> Iterator[DeadLetter]:
        """The jobs that have failed for good and fit, newest first."""
        which: dict[str, str | int | None] = {"task": task, "model": model, "error_type": error_type}
        return self._each(connection.letters({**which, "group": group, "since": since, "limit": page}))

    def retry_dead_letters(
        self,
        *,
        task: str | None = None,
        model: str | None = None,
        error_type: str | None = None,
        group: str | None = None,
        since: str | None = None,
    ) -> Iterator[Retried]:
        """Try again all that fit and were not tried again yet, the oldest first. It goes on as it is read."""
        which = {"task": task, "model": model, "error_type": error_type, "group": group, "since": since}
        return self._each(connection.retried(which))

    # Models, workers, queues

    def models(self) -> Iterator[Model]:
        return self._each(connection.models())

    def model(self, id: str) -> Model:
        return self._run(calls.one(Model.from_json, self._patience, "GET", calls.path("models", id)))

    def workers(self) -> list[Worker]:
        """The live workers."""
        return list(self._each(calls.listing("/v1/workers", Worker.from_json)))

    def queues(self) -> list[Queue]:
        """Depth and oldest wait of each queue."""
        return list(self._each(calls.listing("/v1/queues", Queue.from_json)))

    # Files and outputs

    def upload(self, source: FileSource, *, filename: str | None = None, purpose: str = "input") -> File:
        """Send a file. It is streamed: a path or file object may be larger than memory."""
        flow = calls.upload(self._patience, source, filename, purpose)
        return File.from_json(self._run(flow))

    def files(self, *, purpose: str | None = None) -> Iterator[File]:
        """The uploaded files, newest first."""
        return self._each(connection.files(purpose))

    def file(self, id: str) -> File:
        return self._run(calls.one(File.from_json, self._patience, "GET", calls.path("files", id)))

    def delete_file(self, id: str) -> None:
        self._run(calls.nothing(self._patience, "DELETE", calls.path("files", id)))

    def read_file(self, id: str) -> bytes:
        return self._run(calls.content(self._patience, calls.path("files", id, "content")))

    def read_output(self, id: str) -> bytes:
        return self._run(calls.content(self._patience, calls.path("outputs", id)))

    def save_output(self, id: str, into: str | Path) -> Path:
        """Write an output to a file, which appears only when it is whole. Returns its path."""
        request = Request("GET", calls.path("outputs", id))
        self._transport.download(request, Path(into), self._patience)
        return Path(into)

    def _run(self, flow: Flow[T]) -> T:
        return self._transport.run(flow)

    def _each(self, listing: calls.Listing[T]) -> Iterator[T]:
        more: calls.Listing[T] | None = listing
        while more is not None:
            items, more = self._run(more.page(self._patience))
            yield from items

    def _job(self, data: dict[str, Any]) -> Job:
        return Job.from_json(data, client=self)


@dataclass(frozen=True, kw_only=True)
class Output(OutputRecord):
    """A file that a job made, and the client that fetches it."""

    client: Client = field(repr=False, compare=False)

    def read(self) -> bytes:
        return self.client.read_output(self.id)

    def save(self, into: str | Path) -> Path:
        return self.client.save_output(self.id, into)


@dataclass(frozen=True, kw_only=True)
class Job(JobRecord):
    """A job as it was when the server answered, and the client that asks again. It never changes itself: each
    method returns what is new."""

    client: Client = field(repr=False, compare=False)

    @property
    def outputs(self) -> list[Output]:
        """The main output first."""
        return [Output.from_json(one, client=self.client) for one in self.raw.get("outputs", ())]

    def refresh(self) -> Job:
        return self.client.job(self.id)

    def wait(self, seconds: float | None = None) -> Job:
        """The job when it has ended. Raises WaitTimeout when it has not after ``seconds``."""
        return self.client.wait(self, seconds)

    def events(self, *, after: str | None = None) -> Iterator[Event]:
        return self.client.events(self.id, after=after)

    def tokens(self) -> Iterator[str]:
        return self.client.tokens(self.id)

    def previews(self) -> Iterator[bytes]:
        return self.client.previews(self.id)

    def cancel(self) -> Job:
        return self.client.cancel(self.id)

    def retry(self) -> Job:
        return self.client.retry(self.id)

    def delete(self) -> None:
        self.client.delete(self.id)
