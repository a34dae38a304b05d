"""Each call of the API as a flow: the request, and the record made of its answer. No I/O, no asyncio."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from io import IOBase
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from qanvas.errors import WaitTimeout
from qanvas.protocol import FileSource, Flow, Patience, Request, Upload, call, call_json
from qanvas.records import JobRecord, Record

R = TypeVar("R", bound=Record)
T = TypeVar("T")

#: the longest wait that one request may ask for, in seconds
LONGEST_POLL = 60.0


class Webhook(TypedDict, total=False):
    url: str
    events: list[str]
    secret: str


class Options(TypedDict, total=False):
    """What a submission may say beside model and input. ``timeout`` and ``expires_in`` are in seconds;
    ``run_at`` is an RFC 3339 time; ``idempotency_key`` is a random one where it is not given."""

    task: str
    priority: int
    max_attempts: int
    timeout: float
    run_at: str
    expires_in: float
    depends_on: list[str]
    group: str
    metadata: dict[str, str]
    webhook: Webhook
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list that comes in pages. ``items`` makes things of a page's JSON; ``following`` says which
    parameters, over these, ask for the next page, or None at the end."""

    request: Request
    items: Callable[[dict[str, Any]], Iterable[T]]
    following: Callable[[dict[str, Any]], Mapping[str, str] | None] = field(
        default=lambda page: {"cursor": page["next_cursor"]} if page.get("next_cursor") else None
    )

    def page(self, patience: Patience) -> Flow[tuple[list[T], Listing[T] | None]]:
        """One page, and the listing that goes on behind it."""
        document = yield from call_json(self.request, patience)
        more = self.following(document)
        rest = None
        if more is not None and self.request.method == "GET":
            rest = replace(self, request=replace(self.request, params={**self.request.params, **more}))
        elif more is not None:
            rest = replace(self, request=replace(self.request, json={**self.request.json, **more}))
        return list(self.items(document)), rest


def listing(path: str, kind: Callable[[dict[str, Any]], T], **params: str | int | None) -> Listing[T]:
    """The things under ``data`` of a list with a cursor."""
    request = Request("GET", path, params=given(params))
    return Listing(request, lambda page: [kind(one) for one in page["data"]])


def given(values: Mapping[str, T | None]) -> dict[str, T]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def path(*parts: str) -> str:
    """``/v1/…`` with each part escaped."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def one(
    kind: Callable[[dict[str, Any]], T], patience: Patience, method: str, path: str, json: Any = None
) -> Flow[T]:
    """A call that answers one record. Looking and canceling may be repeated; what makes something may not."""
    repeatable = method == "GET" or path.endswith("/cancel")
    return kind((yield from call_json(Request(method, path, json=json, repeatable=repeatable), patience)))


def nothing(patience: Patience, method: str, path: str) -> Flow[None]:
    yield from call(Request(method, path), patience)


def content(patience: Patience, path: str) -> Flow[bytes]:
    response: httpx.Response = yield from call(Request("GET", path), patience)
    return response.content


def submit(
    patience: Patience, model: str | None, input: Mapping[str, Any], options: Options
) -> Flow[dict[str, Any]]:
    """Upload the files of the input, then submit. The idempotency key lets it be repeated safely."""
    members = dict(options)
    key = members.pop("idempotency_key", None) or str(uuid.uuid4())
    body = {**given({"model": model}), "input": (yield from _with_files(patience, dict(input))), **members}
    request = Request("POST", "/v1/jobs", json=body, headers={"Idempotency-Key": str(key)}, repeatable=True)
    return (yield from call_json(request, patience))


def submit_many(patience: Patience, bodies: Iterable[Mapping[str, Any]]) -> Flow[list[dict[str, Any]]]:
    """Submit up to 1,000 jobs, all or none. Not repeated when the connection breaks: it takes no key."""
    jobs = yield from _with_files(patience, list(bodies))
    answer = yield from call_json(
        Request("POST", "/v1/jobs/bulk", json={"jobs": jobs}, timeout=120), patience
    )
    return list(answer["jobs"])


def wait(
    patience: Patience, job: JobRecord, seconds: float | None, poll: Callable[[float], float | None]
) -> Flow[dict[str, Any]]:
    """Ask until the job is terminal. ``poll`` turns ``seconds`` into the time that is left, at most 60 s, or
    None when it is over. Raises WaitTimeout then."""
    while (left := poll(LONGEST_POLL)) is not None:
        request = Request("GET", path("jobs", job.id), params={"wait": round(left, 3)}, timeout=left + 30)
        document = yield from call_json(request, patience)
        job = JobRecord.from_json(document)
        if job.is_terminal:
            return document
    raise WaitTimeout(job, seconds or 0.0)


def upload(
    patience: Patience, source: FileSource, filename: str | None, purpose: str
) -> Flow[dict[str, Any]]:
    """Send a file, however large, without holding all of it."""
    sent = Upload(source, filename or _name(source), purpose)
    # the server reads and stores all of it before it answers
    return (yield from call_json(Request("POST", "/v1/files", upload=sent, timeout=None), patience))


def _with_files(patience: Patience, value: Any) -> Flow[Any]:
    """The value with the id of an uploaded file in place of each path, bytes and file object."""
    if isinstance(value, Path | bytes | IOBase) or hasattr(value, "read"):
        return (yield from upload(patience, value, None, "input"))["id"]
    if isinstance(value, Mapping):
        found = {}
        for name, inner in value.items():
            found[name] = yield from _with_files(patience, inner)
        return found
    if isinstance(value, list | tuple):
        found = yield from _with_files(patience, dict(enumerate(value)))
        return list(found.values())
    return value


def _name(source: FileSource) -> str:
    if isinstance(source, Path):
        return source.name
    name = getattr(source, "name", None)
    return Path(name).name if isinstance(name, str) and name else "file"
