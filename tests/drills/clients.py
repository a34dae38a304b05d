"""Clients that do not give up: each job has an idempotency key, and is submitted until it is acknowledged."""

from __future__ import annotations

import base64
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

#: what a client thinks of an answer that never came, in seconds
_TIMEOUT = 10.0
#: what webhooks are signed with
SECRET = "whsec_" + base64.b64encode(b"a secret for drills alone").decode()


@dataclass(frozen=True, slots=True)
class Order:
    """A job to submit, and how it may end."""

    key: str
    body: Mapping[str, Any]
    endings: frozenset[str]
    cancel: bool = False
    #: a client reads its event stream to the end, coming back with Last-Event-ID as often as need be
    follow: bool = False


def orders(count: int, seed: int, hooks: str | None = None) -> list[Order]:
    """Mostly pictures that must succeed; some long enough to be handed on, some that fail, some canceled.

    Every third has a webhook at the URL ``hooks``, with its key as the path."""
    dice = random.Random(seed)
    made = []
    for number in range(count):
        given: dict[str, Any] = {
            "prompt": f"drill {number}",
            "seed": dice.randrange(1 << 31),
            "width": 16,
            "height": 16,
            "steps": dice.randint(1, 6),
            "step_seconds": round(dice.uniform(0.0, 0.08), 3),
        }
        body: dict[str, Any] = {"model": "fake", "input": given, "max_attempts": 50}
        endings, cancel = {"succeeded"}, False
        match number % 40:
            case 3 | 21:  # survives several faults, from checkpoint to checkpoint
                given |= {"steps": 40, "step_seconds": 0.06}
            case 7:
                given["fail_at_step"] = given["steps"]
                endings = {"failed"}
            case 13:
                given |= {"steps": 60, "step_seconds": 0.05}
                endings, cancel = {"canceled", "succeeded"}, True
        if number % 150 == 20:  # kills two workers, then is given up
            given["crash_at_step"], body["max_attempts"] = 1, 2
            endings = {"failed"}
        key = f"drill-{seed}-{number}"
        if hooks is not None and number % 3 == 0:
            body["webhook"] = {"url": f"{hooks}/{key}", "secret": SECRET}
        made.append(Order(key, body, frozenset(endings), cancel, follow=number % 10 == 1))
    return made


class Clients:
    """A few threads that share a list of orders, spread over ``seconds``."""

    def __init__(self, url: str, todo: Sequence[Order], seconds: float, threads: int = 4) -> None:
        self._url = url
        self._seconds = seconds
        self._todo = list(todo)
        self._start = time.monotonic()
        #: by key, every id that was ever answered for it
        self.acknowledged: dict[str, set[str]] = {order.key: set() for order in todo}
        #: requests that got no answer, or a 503
        self.retries = 0
        self.odd: list[str] = []
        #: keys of the streams that have not ended with ``done`` yet
        self.following: set[str] = {order.key for order in todo if order.follow}
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(index, threads), daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> None:
        """Until everything is acknowledged."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a submission was never acknowledged"

    def _work(self, index: int, threads: int) -> None:
        with httpx.Client(base_url=self._url, timeout=_TIMEOUT) as client:
            for number in range(index, len(self._todo), threads):
                due = self._start + self._seconds * number / len(self._todo)
                time.sleep(max(0.0, due - time.monotonic()))
                order = self._todo[number]
                answer = self._until_answered(
                    client, "/v1/jobs", {"Idempotency-Key": order.key}, order.body, {200, 202}
                )
                job_id = answer.json()["id"]
                with self._lock:
                    self.acknowledged[order.key].add(job_id)
                if order.follow:
                    threading.Thread(target=self._follow, args=(order.key, job_id), daemon=True).start()
                if order.cancel:
                    self._until_answered(client, f"/v1/jobs/{job_id}/cancel", {}, None, {202, 409})

    def _follow(self, key: str, job_id: str) -> None:
        headers: dict[str, str] = {}
        path = f"/v1/jobs/{job_id}/events"
        with httpx.Client(base_url=self._url, timeout=httpx.Timeout(_TIMEOUT, read=40.0)) as client:
            while key in self.following:
                try:
                    with client.stream("GET", path, headers=headers) as answer:
                        if answer.status_code == 204:  # the last event was seen, and the line broke after it
                            self.following.discard(key)
                        for line in answer.iter_lines():
                            if line.startswith("id: "):
                                headers["Last-Event-ID"] = line[4:]
                            if line == "event: done":
                                self.following.discard(key)
                except httpx.HTTPError:
                    pass
                time.sleep(0.2)

    def _until_answered(
        self,
        client: httpx.Client,
        path: str,
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None,
        wanted: set[int],
    ) -> httpx.Response:
        while True:
            try:
                answer = client.post(path, headers=headers, json=body)
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.status_code in wanted:
                return answer
            with self._lock:
                self.retries += 1
                if answer is not None and answer.status_code != 503:
                    self.odd.append(f"{path}: {answer.status_code} {answer.text[:200]}")
            time.sleep(0.2)
