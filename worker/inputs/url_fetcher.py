"""Input files that a job names by URL, fetched through the guard: what, from where, how much, how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import chain
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from shared.errors import JobError, Refused, Unreachable
from shared.files.media_types import HEAD, KINDS, fits, sniff
from shared.outward import Limits, Outward, Reply
from worker.engines.contract.engine import Progress
from worker.inputs.model_fetcher import Report

#: redirects that are followed, each checked like the first URL
MOST_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: answers below 500 that another time may be better
_TEMPORARY = frozenset({408, 425, 429})
#: seconds between two reports of how much has come
_TELL_EVERY = 0.5


class UrlFetcher:
    """Fetches one file at a time for each caller; shared by all slots."""

    def __init__(self, outward: Outward, *, most_bytes: int, seconds: float) -> None:
        """``seconds`` are for one file with all its redirects."""
        self._outward = outward
        self._most_bytes = most_bytes
        self._seconds = seconds

    def begin(self, url: str, kind: str, field: str, folder: Path, report: Report) -> Future[Path | None]:
        """``fetch`` on a thread of its own, for a job that may give up waiting."""
        fetched: Future[Path | None] = Future()

        def run() -> None:
            try:
                fetched.set_result(self.fetch(url, kind, field, folder, report))
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                fetched.set_exception(error)

        threading.Thread(target=run, name=f"fetch {field}", daemon=True).start()
        return fetched

    def fetch(self, url: str, kind: str, field: str, folder: Path, report: Report) -> Path:
        """The file that the URL leads to, in ``folder``, with a suffix that says what it is.

        ``kind`` is one of ``KINDS``, ``field`` the input's name, as ``image`` or ``frames/3``. Raises
        JobError of type ``invalid-input``, retryable where another time may be better."""
        deadline = time.monotonic() + self._seconds
        try:
            for _ in range(MOST_REDIRECTS + 1):
                left = max(0.0, deadline - time.monotonic())
                limits = Limits(total=left, bytes=self._most_bytes)
                with self._outward.send("GET", url, limits=limits) as reply:
                    if reply.status not in _REDIRECTS:
                        return self._store(reply, kind, field, folder, report)
                    url = _next(url, reply, field)
        except Refused as error:
            raise _failed(field, str(error)) from None
        except Unreachable as error:
            raise _failed(field, str(error), retryable=error.temporary) from None
        raise _failed(field, f"more than {MOST_REDIRECTS} redirects; give the URL that they lead to")

    def _store(self, reply: Reply, kind: str, field: str, folder: Path, report: Report) -> Path:
        if reply.status != 200:
            again = reply.status >= 500 or reply.status in _TEMPORARY
            raise _failed(field, f"the server answered {reply.status}", retryable=again)
        announced = reply.headers.get("content-length", "")
        total = int(announced) if announced.isascii() and announced.isdigit() else None
        if total is not None and total > self._most_bytes:
            raise _failed(field, f"{total} bytes are too many; at most {self._most_bytes} are allowed")
        head, rest = _first(reply.chunks)
        media_type, suffix = sniff(head[:HEAD])
        if not fits(kind, media_type):
            allowed = ", ".join(KINDS.get(kind, ()))
            raise _failed(field, f"by its content it is {media_type}; needed is {kind} ({allowed})")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / file_name(field, suffix)
        done, told = 0, 0.0
        with path.open("wb") as file:
            for piece in chain((head,), rest):
                done += file.write(piece)
                if (now := time.monotonic()) - told >= _TELL_EVERY:
                    told = now
                    report(Progress("fetch", done, total))
        return path


def file_name(field: str, suffix: str = "") -> str:
    """What the file of an input is called on this machine."""
    return field.replace("/", "~") + suffix


def _first(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """At least ``HEAD`` bytes where there are so many, and the pieces that follow."""
    head = b""
    for piece in chunks:
        head += piece
        if len(head) >= HEAD:
            break
    return head, chunks


def _next(url: str, reply: Reply, field: str) -> str:
    """Where a redirect leads."""
    if not (location := reply.headers.get("location")):
        raise _failed(field, f"the server answered {reply.status} without saying where to go")
    try:
        following = urljoin(url, location)
    except ValueError:
        raise _failed(field, "the server redirects to something that is no URL") from None
    if urlsplit(url).scheme == "https" and urlsplit(following).scheme != "https":
        raise _failed(field, "the server redirects from https to http; give the URL that is meant")
    return following


def _failed(field: str, reason: str, *, retryable: bool = False) -> JobError:
    return JobError(
        f"{field}: its URL cannot be fetched: {reason}", type="invalid-input", retryable=retryable
    )
