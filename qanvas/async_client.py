"""The client for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
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
from qanvas.transport import AsyncTransport


class AsyncClient(Connection):
    """A connection to one server for one event loop. Close it, or use it in an ``async with`` block."""

    def __init__(self, url: str | None = None, key: str | None = None, *, patience: float = 30.0) -> None:
        super().__init__(url, key, patience=patience)
        self._transport = AsyncTransport(self.url, self._key)

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def call(
        self, method: str, path: str, *, params: Mapping[str, str | int] | None = None, json: Any = None
    ) -> dict[str, Any]:
        """Any call whose answer is a JSON object, for what this client has no method for."""
        request = Request(method, path, params=params or {}, json=json)
        return await self._run(call_json(request, self._patience))

    # Jobs

    async def submit(
        self,
        model: str | None,
        input: Mapping[str, Any] | None = None,
        /,
        *,
        options: Options | None = None,
        **inputs: Any,
    ) -> AsyncJob:
        """Submit a job and return it at once. A ``Path``, bytes or a file object in the input is uploaded.

        ``model`` may be None where the options name a task. An idempotency key goes with every submission, so
        that it can be repeated after a broken connection without a second job.
        """
        return self._job(
            await self._run(calls.submit(self._patience, model, {**(input or {}), **inputs}, options or {}))
        )

    async def submit_many(self, bodies: Iterable[Mapping[str, Any]]) -> list[AsyncJob]:
        """Submit up to 1,000 jobs, all or none; each body is as ``POST /v1/jobs`` takes it."""
        return [self._job(one) for one in await self._run(calls.submit_many(self._patience, bodies))]

    async def run(
        self,
        model: str | None,
        input: Mapping[str, Any] | None = None,
        /,
        *,
        options: Options | None = None,
        **inputs: Any,
    ) -> AsyncJob:
        """Submit a job and wait for its success. Raises JobFailed when it ends otherwise."""
        job = await (await self.submit(model, input, options=options, **inputs)).wait()
        if job.status != "succeeded":
            raise JobFailed(job)
        return job

    async def job(self, id: str) -> AsyncJob:
        return self._job(await self._run(calls.one(dict, self._patience, "GET", calls.path("jobs", id))))

    def jobs(
        self,
        *,
        status: str | None = None,
        task: str | None = None,
        model: str | None = None,
        group: str | None = None,
        page: int = 50,
    ) -> AsyncIterator[AsyncJob]:
        """All jobs that fit, newest first; ``page`` are fetched at a time."""
        which: dict[str, str | int | None] = {"status": status, "task": task, "model": model, "group": group}
        return self._each(calls.listing("/v1/jobs", self._job, **which, limit=page))

    async def wait(self, job: JobRecord, seconds: float | None = None) -> AsyncJob:
        """The job when it has ended, by long polls. Raises WaitTimeout when it has not after ``seconds``."""
        if job.is_terminal:
            return self._job(dict(job.raw))
        flow = calls.wait(self._patience, job, seconds, connection.until(seconds))
        return self._job(await self._run(flow))

    async def cancel(self, id: str) -> AsyncJob:
        """Cancel a job: one that waits at once, one that runs at its next step.

        Raises Conflict if it has ended.
        """
        path = calls.path("jobs", id, "cancel")
        return self._job(await self._run(calls.one(dict, self._patience, "POST", path)))

    async def retry(self, id: str) -> AsyncJob:
        """Run an ended job again as a new one, which is returned."""
        path = calls.path("jobs", id, "retry")
        return self._job(await self._run(calls.one(dict, self._patience, "POST", path)))

    async def delete(self, id: str) -> None:
        """Delete an ended job and its files."""
        await self._run(calls.nothing(self._patience, "DELETE", calls.path("jobs", id)))

    async def attempts(self, id: str) -> list[Attempt]:
        """The attempts of a job that ended other than well, the first one first."""
        listing = calls.listing(calls.path("jobs", id, "attempts"), Attempt.from_json)
        return [one async for one in self._each(listing)]

    def events(self, id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """What happens to a job, from its beginning or behind the event with the id ``after``, until it ends.
        A broken connection is made again, and goes on where it broke."""
        return self._transport.events(EventStream(id, self._patience, after))

    async def tokens(self, id: str) -> AsyncIterator[str]:
        """The pieces of a text as they are generated."""
        async for event in self.events(id):
            if event.type == "token":
                yield str(event.data["text"])

    async def previews(self, id: str) -> AsyncIterator[bytes]:
        """Preview images (PNG) of a running job; one that is replaced before it is fetched is left out."""
        last = b""
        async for event in self.events(id):
            if event.type == "preview":
                image = await self.preview(id)
                if image != last:
                    last = image
                    yield image

    async def preview(self, id: str) -> bytes:
        """The latest preview image (PNG). Raises NotFound before there is one."""
        return await self._run(calls.content(self._patience, calls.path("jobs", id, "preview")))

    # Groups and dead letters

    async def group(self, name: str) -> Group:
        return await self._run(calls.one(Group.from_json, self._patience, "GET", calls.path("groups", name)))

    async def cancel_group(self, name: str) -> Group:
        """Cancel every job of a group that has not ended."""
        path = calls.path("groups", name, "cancel")
        return await self._run(calls.one(Group.from_json, self._patience, "POST", path))

    def dead_letters(
        self,
        *,
        task: str | None = None,
        model: str | None = None,
        error_type: str | None = None,
        group: str | None = None,
        since: str | None = None,
        page: int = 50,
    ) -> AsyncIterator[DeadLetter]:
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
    ) -> AsyncIterator[Retried]:
        """Try again all that fit and were not tried again yet, the oldest first. It goes on as it is read."""
        which = {"task": task, "model": model, "error_type": error_type, "group": group, "since": since}
        return self._each(connection.retried(which))

    # Models, workers, queues

    def models(self) -> AsyncIterator[Model]:
        return self._each(connection.models())

    async def model(self, id: str) -> Model:
        return await self._run(calls.one(Model.from_json, self._patience, "GET", calls.path("models", id)))

    async def workers(self) -> list[Worker]:
        """The live workers."""
        return [one async for one in self._each(calls.listing("/v1/workers", Worker.from_json))]

    async def queues(self) -> list[Queue]:
        """Depth and oldest wait of each queue."""
        return [one async for one in self._each(calls.listing("/v1/queues", Queue.from_json))]

    # Files and outputs

    async def upload(
        self, source: FileSource, *, filename: str | None = None, purpose: str = "input"
    ) -> File:
        """Send a file. It is streamed: a path or file object may be larger than memory."""
        flow = calls.upload(self._patience, source, filename, purpose)
        return File.from_json(await self._run(flow))

    def files(self, *, purpose: str | None = None) -> AsyncIterator[File]:
        """The uploaded files, newest first."""
        return self._each(connection.files(purpose))

    async def file(self, id: str) -> File:
        return await self._run(calls.one(File.from_json, self._patience, "GET", calls.path("files", id)))

    async def delete_file(self, id: str) -> None:
        await self._run(calls.nothing(self._patience, "DELETE", calls.path("files", id)))

    async def read_file(self, id: str) -> bytes:
        return await self._run(calls.content(self._patience, calls.path("files", id, "content")))

    async def read_output(self, id: str) -> bytes:
        return await self._run(calls.content(self._patience, calls.path("outputs", id)))

    async def save_output(self, id: str, into: str | Path) -> Path:
        """Write an output to a file, which appears only when it is whole. Returns its path."""
        request = Request("GET", calls.path("outputs", id))
        await self._transport.download(request, Path(into), self._patience)
        return Path(into)

    async def _run(self, flow: Flow[T]) -> T:
        return await self._transport.run(flow)

    async def _each(self, listing: calls.Listing[T]) -> AsyncIterator[T]:
        more: calls.Listing[T] | None = listing
        while more is not None:
            items, more = await self._run(more.page(self._patience))
            for one in items:
                yield one

    def _job(self, data: dict[str, Any]) -> AsyncJob:
        return AsyncJob.from_json(data, client=self)


@dataclass(frozen=True, kw_only=True)
class AsyncOutput(OutputRecord):
    """A file that a job made, and the client that fetches it."""

    client: AsyncClient = field(repr=False, compare=False)

    async def read(self) -> bytes:
        return await self.client.read_output(self.id)

    async def save(self, into: str | Path) -> Path:
        return await self.client.save_output(self.id, into)


@dataclass(frozen=True, kw_only=True)
class AsyncJob(JobRecord):
    """A job as it was when the server answered, and the client that asks again. It never changes itself: each
    method returns what is new."""

    client: AsyncClient = field(repr=False, compare=False)

    @property
    def outputs(self) -> list[AsyncOutput]:
        """The main output first."""
        return [AsyncOutput.from_json(one, client=self.client) for one in self.raw.get("outputs", ())]

    async def refresh(self) -> AsyncJob:
        return await self.client.job(self.id)

    async def wait(self, seconds: float | None = None) -> AsyncJob:
        """The job when it has ended. Raises WaitTimeout when it has not after ``seconds``."""
        return await self.client.wait(self, seconds)

    def events(self, *, after: str | None = None) -> AsyncIterator[Event]:
        return self.client.events(self.id, after=after)

    def tokens(self) -> AsyncIterator[str]:
        return self.client.tokens(self.id)

    def previews(self) -> AsyncIterator[bytes]:
        return self.client.previews(self.id)

    async def cancel(self) -> AsyncJob:
        return await self.client.cancel(self.id)

    async def retry(self) -> AsyncJob:
        return await self.client.retry(self.id)

    async def delete(self) -> None:
        await self.client.delete(self.id)
