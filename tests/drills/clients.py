"""Clients that do not give up: each job has an idempotency key, and is submitted until it is acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from tests.drills.orders import Order

#: what a client thinks of an answer that never came, in seconds
_TIMEOUT = 10.0


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
        self._told = threading.Condition(self._lock)
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
                body = order.submission({key: self._id(key) for key in order.waits_for})
                answer = self._until_answered(
                    client, "/v1/jobs", {"Idempotency-Key": order.key}, body, {200, 202}
                )
                job_id = answer.json()["id"]
                with self._told:
                    self.acknowledged[order.key].add(job_id)
                    self._told.notify_all()
                if order.follow:
                    threading.Thread(target=self._follow, args=(order.key, job_id), daemon=True).start()
                if order.cancel:
                    self._until_answered(client, f"/v1/jobs/{job_id}/cancel", {}, None, {202, 409})

    def _id(self, key: str) -> str:
        """The id of an earlier order's job, once it is acknowledged, as it will be."""
        with self._told:
            self._told.wait_for(lambda: self.acknowledged[key])
            return next(iter(self.acknowledged[key]))

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
