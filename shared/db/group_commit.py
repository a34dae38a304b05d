"""Many small transactions as a few larger ones: what waits together is committed together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Call(Generic[Item, Answer]):
    """One caller's item, its answer, and what it sleeps on until it has that or shall execute itself."""

    __slots__ = ("answer", "done", "error", "item", "turn")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.done = False
        self.turn = threading.Lock()
        self.turn.acquire()


class GroupCommit(Generic[Item, Answer]):
    """Group commit without a thread of its own.

    ``call`` blocks until ``execute`` has run on a list that contains the item. Of the callers that wait at
    the same time one executes for all, then hands over to the first who came meanwhile; each of the others
    is woken once, when its answer is there. An answer that is an exception is raised in its caller. When
    ``execute`` itself raises for several items, each is tried alone, so that one bad item fails alone.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[Item]], Sequence[Answer | Exception]],
        most: int = 64,
        turns: threading.Lock | None = None,
    ) -> None:
        """``turns``: held while one executes, where several combiners are not to do so at once."""
        self._execute = execute
        self._turns = turns or threading.Lock()
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[_Call[Item, Answer]] = deque()
        self._executing = False

    def call(self, item: Item) -> Answer:
        """The answer for this item; raises what ``execute`` raised or answered for it."""
        call: _Call[Item, Answer] = _Call(item)
        with self._lock:
            self._waiting.append(call)
            sleep, self._executing = self._executing, True
        if sleep:
            call.turn.acquire()
        if not call.done:
            self._lead(call)
        if call.error is not None:
            raise call.error
        return cast(Answer, call.answer)

    def _lead(self, own: _Call[Item, Answer]) -> None:
        """Execute what waits, the caller's own item first, and let the next one lead."""
        with self._turns:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            self._execute_for(batch, own)

    def _execute_for(self, batch: Sequence[_Call[Item, Answer]], own: _Call[Item, Answer]) -> None:
        try:
            self._run(batch)
        finally:
            with self._lock:
                self._executing = bool(self._waiting)
                following = [self._waiting[0]] if self._waiting else []
            for call in (*batch, *following):
                if call is not own:
                    call.turn.release()

    def _run(self, batch: Sequence[_Call[Item, Answer]]) -> None:
        try:
            answers = self._execute([call.item for call in batch])
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
        for call, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                call.error = answer
            else:
                call.answer = answer
            call.done = True
