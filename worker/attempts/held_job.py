"""A job that this process holds, as its threads see it: how far it is, and that it shall stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from shared.jobs.entities import Job
from shared.messaging.events import Events, EventType, Speaker
from worker.engines.contract.engine import Progress, Stopped, StopReason
from worker.kiln.kiln_job import KilnJob

#: seconds between two progress events of a job; its first and last step are always told
_TELL_EVERY = 0.1

Value = TypeVar("Value")


class HeldJob:
    """Implements ``Watcher``: what the engine says is published, and noted for the next renewal."""

    def __init__(self, job: Job, events: Events, begin: Callable[[str, int], None]) -> None:
        """``begin`` is called with the job's id and attempt when it begins to compute."""
        self.job = job
        self._begin = begin
        #: for the next renewal to write into the database
        self.latest: Mapping[str, Any] | None = None
        self.reason: StopReason | None = None
        #: this attempt or an earlier one may have left something below ``checkpoints/``
        self.has_checkpoint = job.attempt > 1
        self._events = events
        self._stage = ""
        self._told = 0.0
        self._kiln_job: KilnJob | None = None
        self._look = threading.Event()  # set when ``wait`` has something to see
        self._told_to_stop = threading.Event()
        self._lock = threading.Lock()
        self._began = time.monotonic()

    def begun(self) -> None:
        self._begin(self.job.id, self.job.attempt)

    def progress(self, progress: Progress) -> None:
        fraction = round(min(1.0, progress.step / progress.total), 4) if progress.total else None
        self.latest = {
            "stage": progress.stage,
            "step": progress.step,
            "total": progress.total,
            "fraction": fraction,
        }
        now = time.monotonic()
        edge = progress.stage != self._stage or progress.step == progress.total
        if edge or now - self._told >= _TELL_EVERY:
            self._stage, self._told = progress.stage, now
            self._publish("progress", self.latest)

    def token(self, text: str) -> None:
        self._publish("token", {"text": text})

    def preview(self, png: bytes) -> None:
        """Show what there is so far."""
        self._publish("preview", {"url": f"/v1/jobs/{self.job.id}/preview"}, png)

    def running(self) -> None:
        """Tell that the attempt runs."""
        self._publish("status", {"status": "running", "attempt": self.job.attempt})

    def _publish(self, type: EventType, data: Mapping[str, Any], preview: bytes | None = None) -> None:
        if not self.lost:
            said = Speaker(self.job.attempt)
            self._events.publish(self.job.id, type, data, preview=preview, speaker=said)

    def stop(self, reason: StopReason) -> None:
        """Stop the job, whether the kiln has it yet or not. Any thread, more than once."""
        with self._lock:
            if self.reason is not StopReason.LOST:
                self.reason = reason
            if self._kiln_job is not None:
                self._kiln_job.stop(reason)
        self._look.set()
        self._told_to_stop.set()

    @property
    def seconds(self) -> float:
        """What the job's time-out counts since this process holds it: until the kiln has it, which counts
        itself."""
        return time.monotonic() - self._began

    @property
    def is_late(self) -> bool:
        """Whether its time-out has run out. It counts while the job's files are brought, while its model is
        loaded and while it computes."""
        if self.reason is StopReason.DEADLINE:
            return True
        if (kiln_job := self._kiln_job) is not None:
            return kiln_job.is_late
        return self.job.timeout is not None and self.seconds > self.job.timeout

    def hear_deadline(self) -> None:
        """Stop the job if it is late, whoever holds up the thread that would see that. Any thread."""
        if self.reason is None and self.is_late:
            self.stop(StopReason.DEADLINE)

    def pause(self, seconds: float) -> None:
        """Wait so long, or until the job shall stop. What is waited for is no doing of the job's: its
        time-out counts anew from then on."""
        self._began = time.monotonic() + seconds
        self._told_to_stop.wait(seconds)
        self._began = time.monotonic()

    def wait(self, future: Future[Value], /) -> Value:
        """What comes of it. Raises Stopped as soon as the job shall stop; the future goes on for others."""
        self._look.clear()  # a future that was waited for before set it
        future.add_done_callback(lambda _: self._look.set())
        if self.reason is None:
            self._look.wait()
        if self.reason is not None:
            raise Stopped(self.reason)
        return future.result()

    def in_kiln(self, kiln_job: KilnJob) -> None:
        """The kiln has the job now."""
        with self._lock:
            self._kiln_job = kiln_job
            if self.reason is not None:
                kiln_job.stop(self.reason)

    @property
    def lost(self) -> bool:
        """Whether another worker owns the job now, or nobody: nothing may be written for it any more."""
        return self.reason is StopReason.LOST
