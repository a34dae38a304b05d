"""Many small transactions as a few larger ones: what waits together is committed together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from shared.errors import Unavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Combiner(Generic[Item, Answer]):
    """Group commit without a thread of its own.

    ``call`` blocks until ``execute`` has run on a list that contains the item. Of the callers that wait at
    the same time one executes for all; the others sleep. An answer that is an exception is raised in its
    caller. When ``execute`` itself raises for several items, each is tried alone, so that one bad item
    fails alone; not so when the database is away, which is nobody's fault.
    """

    def __init__(
        self, execute: Callable[[Sequence[Item]], Sequence[Answer | Exception]], most: int = 64
    ) -> None:
        self._execute = execute
        self._most = most
        self._waiting: list[tuple[Item, Future[Answer]]] = []
        self._waiting_lock = threading.Lock()
        self._executing = threading.Lock()

    def call(self, item: Item) -> Answer:
        """The answer for this item; raises what ``execute`` raised or answered for it."""
        future: Future[Answer] = Future()
        with self._waiting_lock:
            self._waiting.append((item, future))
        while not future.done():
            with self._executing:
                if not future.done():
                    with self._waiting_lock:
                        batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                    self._run(batch)
        return future.result()

    def _run(self, batch: Sequence[tuple[Item, Future[Answer]]]) -> None:
        try:
            answers = self._execute([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is handed to the callers, whatever it is
            if len(batch) > 1 and not isinstance(error, Unavailable):
                for one in batch:
                    self._run([one])
                return
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
