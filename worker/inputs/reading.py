"""One job's way into the sandbox: stops with the job, keeps its time, and tells its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

from worker.engines.contract.engine import Progress, Stopped, StopReason
from worker.media.limits import Limits
from worker.media.sandbox import Decoding, Sandbox
from worker.media.starter import TooSlow

Value = TypeVar("Value")


class Wait(Protocol):
    """Waits for a future; may give up, by raising, while it is still to come."""

    def __call__(self, future: Future[Value], /) -> Value: ...


class Reader(Protocol):
    """Decodes files of one job."""

    def read(
        self,
        task: str,
        sources: Sequence[Path],
        targets: Sequence[str],
        limits: Limits,
        arguments: Mapping[str, Any],
    ) -> tuple[bytes, list[Path]]:
        """What the task answers, and the files it wrote, which are called like ``targets``.

        Raises Undecodable, Stopped, OutOfMemory, Unavailable and OSError."""


class JobReader:
    """Implements ``Reader`` for a job of a worker."""

    def __init__(
        self,
        sandbox: Sandbox,
        folder: Path,
        *,
        wait: Wait = Future.result,
        report: Callable[[Progress], None] = lambda _: None,
        timeout: float | None = None,
    ) -> None:
        """``folder`` is where the attempt may write; ``timeout`` are the seconds that the job may take."""
        self._sandbox = sandbox
        self._folder = folder
        self._wait = wait
        self._report = report
        #: seconds that the job has left, None where it has no time limit
        self.left = timeout

    def read(
        self,
        task: str,
        sources: Sequence[Path],
        targets: Sequence[str],
        limits: Limits,
        arguments: Mapping[str, Any],
    ) -> tuple[bytes, list[Path]]:
        self._folder.mkdir(parents=True, exist_ok=True)
        files = [self._folder / name for name in targets]
        began, left = time.monotonic(), self.left
        decoding = self._sandbox.begin(
            task, sources, files, limits, seconds=left, arguments=arguments, report=self._tell
        )
        try:
            answer = self._answer(decoding)
        except TooSlow:
            if left is not None and left < limits.seconds:
                raise Stopped(StopReason.DEADLINE) from None
            raise
        if left is not None:
            self.left = left - (time.monotonic() - began)
            if self.left <= 0:
                raise Stopped(StopReason.DEADLINE)
        return answer, files

    def _answer(self, decoding: Decoding) -> bytes:
        try:
            return self._wait(decoding.future)
        except BaseException:
            decoding.stop()
            raise

    def _tell(self, done: int, total: int) -> None:
        self._report(Progress("read", done, total))
