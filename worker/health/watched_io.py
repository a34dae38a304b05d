"""The database and the storage of a worker, each of whose calls the watchdog sees.

A network file system, or a database server that has stopped answering, may hold a thread for ever. An object
store needs no watching: its client has time-outs for every request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from types import GeneratorType
from typing import Any, cast

from sqlalchemy.engine import Connection

from shared.db.engine import Database
from shared.storage.base import Storage
from shared.storage.files import FileStorage
from worker.health.watchdog import Busy


class WatchedDatabase(Database):
    """Each transaction is a step of the thread that makes it."""

    def __init__(self, url: str, busy: Busy) -> None:
        super().__init__(url)
        self._busy = busy

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._busy.at("reading the database"), super().read() as connection:
            yield connection

    @contextmanager
    def write(self, *, durable: bool = True, foreign_keys: bool = True) -> Iterator[Connection]:
        with (
            self._busy.at("writing to the database"),
            super().write(durable=durable, foreign_keys=foreign_keys) as connection,
        ):
            yield connection


def watched(storage: Storage, busy: Busy) -> Storage:
    """The storage, each of whose calls is a step of the thread that makes it."""
    return cast(Storage, _WatchedFiles(storage, busy)) if isinstance(storage, FileStorage) else storage


class _WatchedFiles:
    """Implements ``Storage``."""

    def __init__(self, files: FileStorage, busy: Busy) -> None:
        self._files, self._busy = files, busy

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._files, name)
        if not callable(method):
            return method

        @wraps(method)
        def call(*args: Any, **named: Any) -> Any:
            with self._busy.at(f"the storage's {name}"):
                answer = method(*args, **named)
            return self._each(name, answer) if isinstance(answer, GeneratorType) else answer

        return call

    def _each(self, name: str, found: Iterator[Any]) -> Iterator[Any]:
        """What is found one after the other: the time until the next one is asked for is not a step."""
        with self._busy.at(f"the storage's {name}") as mark:
            for one in found:
                with mark.pause():
                    yield one
