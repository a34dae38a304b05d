"""What waits for the engine thread to take it in: jobs that were submitted, and models that were loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable

from shared.errors import QanvasError
from worker.kiln.kiln_job import KilnJob, Order, Watcher
from worker.kiln.loading import Loaded


class Inbox:
    """Any thread may put something in; the engine thread alone takes it out, and waits for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: list[KilnJob] = []
        self._models: list[Loaded] = []
        self._numbered = 0
        self._closed = False

    def submit(self, order: Order, watcher: Watcher) -> KilnJob:
        """A job, numbered in order of arrival. Raises QanvasError once the inbox is closed."""
        with self._changed:
            if self._closed:
                raise QanvasError("this worker is leaving; the job goes on elsewhere")
            self._numbered += 1
            kiln_job = KilnJob(order, watcher, self._numbered)
            self._jobs.append(kiln_job)
            self._changed.notify()
        return kiln_job

    def put(self, loaded: Loaded) -> None:
        """A model that was loaded, or could not be."""
        with self._changed:
            self._models.append(loaded)
            self._changed.notify()

    def close(self) -> None:
        """Take no more jobs."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def is_done(self) -> bool:
        """Whether no job is in it, and none will come."""
        with self._changed:
            return self._closed and not self._jobs

    def take(self) -> tuple[list[KilnJob], list[Loaded]]:
        """All that there is."""
        with self._changed:
            jobs, self._jobs = self._jobs, []
            models, self._models = self._models, []
        return jobs, models

    def wait(self, other: Callable[[], bool]) -> None:
        """Sleep until there is something, or ``other`` is true, which is looked at whenever something is put
        in and when the inbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._jobs or self._models or other()))
