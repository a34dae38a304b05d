"""Decodes what users send in processes of its own: what a file does to one ends one task and nothing else.

A *starter* (``worker.media.child``) has the libraries loaded and forks for each task, which takes
milliseconds. One thread that lives as long as the sandbox starts them: Linux ends a child with the *thread*
that started it. An idle one waits for the next picture.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

from shared.errors import QanvasError, Unavailable
from worker.media import wire
from worker.media.limits import Limits
from worker.media.starter import Starter
from worker.media.wire import Report, Undecodable

log = logging.getLogger(__name__)

#: the table of what decoders can do
TASKS = "worker.media.tasks"


class Decoding:
    """A task that is being done; ``future`` gets the decoder's answer, at most ``wire.MOST_BODY`` bytes.

    Or it raises Undecodable, for what is the fault of what was sent; Unavailable for a decoder that cannot be
    started; OutOfMemory for one that the system ended; OSError for files that cannot be opened or written."""

    def __init__(self) -> None:
        self.future: Future[bytes] = Future()
        self._lock = threading.Lock()
        self._starter: Starter | None = None
        self._stopped = False

    def stop(self) -> None:
        """Nobody wants the answer any more: end the decoder. Any thread, more than once."""
        with self._lock:
            self._stopped = True
            if self._starter is not None:
                self._starter.kill()

    def begin(self, starter: Starter) -> bool:
        """This starter's decoder works on it. False when nobody wants the answer any more."""
        with self._lock:
            if not self._stopped:
                self._starter = starter
            return not self._stopped

    def end(self) -> None:
        """The starter is another task's from now on."""
        with self._lock:
            self._starter = None


class Sandbox:
    """The starters of one worker. Any thread may begin a task."""

    def __init__(self, *, places: int = 4, tasks: str = TASKS) -> None:
        """``places``: starters that decode pictures at once; each may take ``limits.PICTURE.memory``.

        Starts nothing; ``open`` does, and the first task."""
        self._places = threading.BoundedSemaphore(places)
        self._most_idle = places
        self._tasks = tasks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sandbox")
        self._lock = threading.Lock()
        self._idle: dict[Limits, list[Starter]] = {}
        self._all: set[Starter] = set()
        self._closed = False

    def open(self, limits: Limits) -> None:
        """Have a starter ready for tasks with these limits before there is one."""
        with self._lock:
            if not self._closed:
                self._thread.submit(self._spare, limits)

    def begin(
        self,
        task: str,
        sources: Sequence[Path],
        targets: Sequence[Path],
        limits: Limits,
        *,
        seconds: float | None = None,
        arguments: Mapping[str, Any] | None = None,
        report: Report = lambda _done, _total: None,
    ) -> Decoding:
        """Have a task done within ``limits``, and within ``seconds`` where they are less: it reads
        ``sources`` and writes ``targets``, which are made anew in a folder that is there."""
        decoding = Decoding()
        within = limits.seconds if seconds is None else min(seconds, limits.seconds)
        request = wire.Request(task=task, seconds=within, arguments=arguments or {})

        def run() -> None:
            try:
                self._run(decoding, request, sources, targets, limits, report)
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                decoding.future.set_exception(error)

        threading.Thread(target=run, name=f"decode {task}", daemon=True).start()
        return decoding

    def close(self) -> None:
        """End all starters, and start no more."""
        with self._lock:
            self._closed = True
        self._thread.shutdown()
        with self._lock:
            starters = list(self._all)
        for starter in starters:
            self._end(starter)

    def _run(
        self,
        decoding: Decoding,
        request: wire.Request,
        sources: Sequence[Path],
        targets: Sequence[Path],
        limits: Limits,
        report: Report,
    ) -> None:
        """Raises what concerns no decoder; the rest the future gets as soon as it is there."""
        with self._places if limits.reused else nullcontext():
            starter = self._take(limits)
            try:
                if not decoding.begin(starter):
                    raise Undecodable("is not wanted any more")
                with ExitStack() as stack:
                    opened = wire.Files(
                        [stack.enter_context(path.open("rb")) for path in sources],
                        [stack.enter_context(path.open("wb")) for path in targets],
                    )
                    answer = starter.do(request, opened, report)
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                decoding.future.set_exception(error)
            else:
                decoding.future.set_result(answer)
            finally:
                decoding.end()
                self._keep(limits, starter)

    def _take(self, limits: Limits) -> Starter:
        """An idle starter, or a new one. Raises Unavailable."""
        with self._lock:
            if self._closed:
                raise QanvasError("this worker is leaving; the job goes on elsewhere")
            idle = self._idle.get(limits, [])
            found = None
            while idle and found is None:
                starter = idle.pop()
                if starter.lives:
                    found = starter
                else:
                    self._all.discard(starter)
                    starter.kill()
            starting = self._thread.submit(self._start, limits) if found is None else None
            if limits.reused and not idle:
                self._thread.submit(self._spare, limits)
        if found is not None:
            return found
        assert starting is not None
        try:
            return starting.result()
        except (OSError, SubprocessError) as error:
            raise Unavailable("a process that decodes files could not be started", str(error)) from error

    def _start(self, limits: Limits) -> Starter:
        starter = Starter(limits, self._tasks)
        with self._lock:
            self._all.add(starter)
        return starter

    def _spare(self, limits: Limits) -> None:
        """Have a starter ready for the next task, where none is."""
        with self._lock:
            if self._closed or self._idle.get(limits):
                return
        try:
            starter = self._start(limits)
        except OSError as error:  # the task that needs one tells its job
            log.warning("no process to decode files could be started: %s", error)
            return
        with self._lock:  # it may still be loading its libraries: whoever takes it waits for that
            self._idle.setdefault(limits, []).append(starter)

    def _keep(self, limits: Limits, starter: Starter) -> None:
        keep = limits.reused and starter.is_idle()
        with self._lock:
            idle = self._idle.setdefault(limits, [])
            if keep := keep and not self._closed and len(idle) < self._most_idle:
                idle.append(starter)
        if not keep:
            self._end(starter)

    def _end(self, starter: Starter) -> None:
        starter.kill()
        with self._lock:
            self._all.discard(starter)
