"""Many small transactions as a few larger ones: items that wait at the same time are committed together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Call(Generic[Item, Result]):
    """One caller's item and its result. ``wake`` is released once the result is there, or once the caller
    shall execute the next batch itself."""

    __slots__ = ("done", "error", "item", "result", "wake")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.done = False
        self.wake = threading.Lock()
        self.wake.acquire()


class GroupCommit(Generic[Item, Result]):
    """Group commit without a thread of its own.

    ``call`` blocks until ``execute`` has run on a list that contains the item. Of the callers that wait at
    the same time one executes for all, then hands over to the first who came meanwhile; each of the others
    is woken once, when its result is there. A result that is an exception is raised in its caller. When
    ``execute`` itself raises for several items, each is tried alone, so that one bad item fails alone.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        limit: int = 64,
        turns: threading.Lock | None = None,
    ) -> None:
        """``limit``: items in one batch. ``turns``: a lock that is held while a batch executes, where several
        group commits are not to execute at once."""
        self._execute = execute
        self._turns = turns or threading.Lock()
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[_Call[Item, Result]] = deque()
        self._executing = False

    def call(self, item: Item) -> Result:
        """The result for this item; raises what ``execute`` raised or returned for it."""
        call: _Call[Item, Result] = _Call(item)
        with self._lock:
            self._waiting.append(call)
            must_wait, self._executing = self._executing, True
        if must_wait:
            call.wake.acquire()
        if not call.done:
            self._execute_batch(call)
        if call.error is not None:
            raise call.error
        return cast(Result, call.result)

    def _execute_batch(self, own: _Call[Item, Result]) -> None:
        """Execute what waits, the caller's own item first, and let the first of those behind go on."""
        with self._turns:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
            try:
                self._run(batch)
            finally:
                self._wake(batch, own)

    def _wake(self, batch: Sequence[_Call[Item, Result]], own: _Call[Item, Result]) -> None:
        with self._lock:
            self._executing = bool(self._waiting)
            following = [self._waiting[0]] if self._waiting else []
        for call in (*batch, *following):
            if call is not own:
                call.wake.release()

    def _run(self, batch: Sequence[_Call[Item, Result]]) -> None:
        try:
            results = self._execute([call.item for call in batch])
        except Exception as error:  # noqa: BLE001 - it is raised in the callers, whatever it is
            if len(batch) > 1:
                for one in batch:
                    self._run([one])
            else:
                batch[0].error, batch[0].done = error, True
            return
        except BaseException as error:  # noqa: BLE001 - this thread shall end: every caller hears why
            for call in batch:
                call.error, call.done = error, True
            return
        for call, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                call.error = result
            else:
                call.result = result
            call.done = True
