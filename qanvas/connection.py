"""What both clients know: where the server is, and how the calls with parameters look."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from qanvas import calls
from qanvas.protocol import Patience, Request
from qanvas.records import DeadLetter, File, Model, Retried

DEFAULT_URL = "http://127.0.0.1:8000"


class Connection:
    """``url`` and ``key`` are those of ``QANVAS_URL`` and ``QANVAS_KEY`` where they are not given.
    ``patience`` is how many seconds a call goes on trying while the server does not answer or answers 429 or
    503; with 0, each request is sent once."""

    def __init__(self, url: str | None = None, key: str | None = None, *, patience: float = 30.0) -> None:
        self.url = (url or os.environ.get("QANVAS_URL") or DEFAULT_URL).rstrip("/")
        self._key = os.environ.get("QANVAS_KEY", "") if key is None else key
        self._patience = Patience(self.url, patience)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def until(seconds: float | None) -> Callable[[float], float | None]:
    """A function that gives the seconds that are left, at most its argument, and None when they are over."""
    end = None if seconds is None else time.monotonic() + seconds

    def left(most: float) -> float | None:
        if end is None:
            return most
        rest = end - time.monotonic()
        return min(most, rest) if rest > 0 else None

    return left


def letters(which: Mapping[str, str | int | None]) -> calls.Listing[DeadLetter]:
    return calls.listing("/v1/dead-letters", DeadLetter.from_json, **which)


def retried(which: Mapping[str, str | None]) -> calls.Listing[Retried]:
    """One request for each page: the server retries the letters of that page."""
    request = Request("POST", "/v1/dead-letters/retry", json=calls.given(which))

    def items(page: dict[str, Any]) -> list[Retried]:
        return [Retried.from_json(one) for one in (*page["retried"], *page["skipped"])]

    return calls.Listing(request, items)


def files(purpose: str | None) -> calls.Listing[File]:
    def following(page: dict[str, Any]) -> dict[str, str] | None:
        return {"after": page["data"][-1]["id"]} if page.get("has_more") and page["data"] else None

    request = Request("GET", "/v1/files", params=calls.given({"purpose": purpose}))
    return calls.Listing(request, lambda page: [File.from_json(one) for one in page["data"]], following)


def models() -> calls.Listing[Model]:
    return calls.listing("/v1/models", Model.from_json)
