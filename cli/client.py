"""The HTTP client behind the commands. What a server refuses becomes one readable message."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from shared.errors import QanvasError

TERMINAL = ("succeeded", "failed", "canceled", "expired")
#: seconds between two looks at a job: often at first, when somebody watches a picture being made
_LOOK_SOON, _LOOK_LATER, _SOON = 0.15, 1.0, 30.0
#: seconds a server may be away while a job is followed; it may be restarting
_PATIENCE = 30.0


class ServerError(QanvasError):
    """The server did not answer, or answered with a problem; the text is what it said."""


class ServerAway(ServerError):
    pass


class Client:
    def __init__(self, url: str, key: str = "") -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(30.0, connect=5.0),
            follow_redirects=True,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call("GET", "/v1/models")["data"]
        return found

    def model(self, name: str) -> dict[str, Any]:
        return self._call("GET", f"/v1/models/{name}")

    def submit(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._call("POST", "/v1/jobs", json=body)

    def job(self, job_id: str) -> dict[str, Any]:
        return self._call("GET", f"/v1/jobs/{job_id}")

    def jobs(self, **query: str | int | None) -> dict[str, Any]:
        return self._call("GET", "/v1/jobs", params={k: v for k, v in query.items() if v is not None})

    def retry(self, job_id: str) -> dict[str, Any]:
        return self._call("POST", f"/v1/jobs/{job_id}/retry")

    def dead_letters(self, **query: str | int | None) -> dict[str, Any]:
        known = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", "/v1/dead-letters", params=known)

    def retry_dead_letters(self, which: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Try all that fit again; each answer as it comes."""
        more: dict[str, str] = {}
        while True:
            answer = self._call("POST", "/v1/dead-letters/retry", json={**which, **more})
            yield answer
            if answer["next_cursor"] is None:
                return
            more = {"cursor": answer["next_cursor"]}

    def upload(self, path: Path, *, purpose: str) -> str:
        """Send a file and return its id. The file is streamed, however large."""
        with path.open("rb") as source:
            # the server reads and stores all of it before it answers
            return str(
                self._call(
                    "POST",
                    "/v1/files",
                    files={"file": (path.name, source)},
                    data={"purpose": purpose},
                    timeout=httpx.Timeout(30.0, read=None),
                )["id"]
            )

    def download(self, url: str, into: Path) -> None:
        """Fetch an output into a file, which appears only when it is whole."""
        part = into.with_name(f".{into.name}.part")
        with _translated(self.url), self._http.stream("GET", url) as response:
            if response.is_error:
                response.read()
                raise ServerError(_said(response))
            with part.open("wb") as target:
                for chunk in response.iter_bytes():
                    target.write(chunk)
        part.replace(into)

    def follow(
        self, job: dict[str, Any], meanwhile: Callable[[], None] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The job as it changes, last in a terminal status. ``meanwhile`` runs before every look."""
        began = answered = time.monotonic()
        yield job
        while job["status"] not in TERMINAL:
            now = time.monotonic()
            time.sleep(_LOOK_SOON if now - began < _SOON else _LOOK_LATER)
            if meanwhile is not None:
                meanwhile()
            try:
                job = self.job(job["id"])
                answered = time.monotonic()
            except ServerAway:
                if time.monotonic() - answered > _PATIENCE:
                    raise
                continue
            yield job

    def _call(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        with _translated(self.url):
            response = self._http.request(method, path, **how)
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise ServerAway(_said(response))
        if response.is_error:
            raise ServerError(_said(response))
        answer: dict[str, Any] = response.json()
        return answer


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout):
        raise ServerAway(
            f"no server answers at {url}; start one with `qanvas up`, or name it with --url"
        ) from None
    except httpx.HTTPError as error:
        raise ServerAway(f"the server at {url} did not answer: {error}") from None
    except httpx.InvalidURL as error:
        raise ServerError(f"{url!r} is no address: {error}") from None


def _said(response: httpx.Response) -> str:
    """A problem document (RFC 9457) as text: what is wrong, and a line for each field."""
    try:
        problem = response.json()
        lines = [str(problem.get("detail") or problem.get("title") or f"HTTP {response.status_code}")]
        lines += [f"  {fault['pointer']}: {fault['detail']}" for fault in problem.get("errors", ())]
        return "\n".join(lines)
    except (ValueError, AttributeError, KeyError, TypeError):
        return f"the server answered {response.status_code} {response.reason_phrase}"
