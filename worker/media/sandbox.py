"""Runs decoding tasks in child processes: what a file does to its decoder ends one job and nothing else.

Children are started by one thread that lives as long as the sandbox: Linux ends a child with the *thread*
that started it. One idle child waits for the next picture, so that none waits for a process to start.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from shared.errors import OutOfMemory, QanvasError, Unavailable
from worker.media import wire
from worker.media.limits import Limits
from worker.media.wire import Report, Undecodable

log = logging.getLogger(__name__)

#: the table of what children can do
TASKS = "worker.media.tasks"
#: idle children that are kept
_KEPT = 2
#: seconds a child may take to start, on a machine that is busy and whose disk is cold
_START = 60.0
#: seconds for which a child that closed its socket may take to be gone
_END = 5.0
#: seconds between two reports that are passed on, whatever the child sends
_TELL_EVERY = 0.05


class TooSlow(Undecodable):
    """The time that the task may take has run out."""


class Decoding:
    """A task that is being done; ``future`` gets the child's answer, at most ``wire.MOST_BODY`` bytes.

    Or it raises Undecodable, for what is the fault of what was sent; Unavailable for a child that cannot be
    started; OutOfMemory for one that the system ended; OSError for files that cannot be opened or written."""

    def __init__(self) -> None:
        self.future: Future[bytes] = Future()
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._stopped = False

    def stop(self) -> None:
        """Nobody wants the answer any more: end the child that works on it. Any thread, more than once."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.kill()

    def given(self, child: _Child) -> bool:
        """This child works on it. False when nobody wants the answer any more."""
        with self._lock:
            self._child = child
            return not self._stopped


class Sandbox:
    """The children of one worker. Any thread may begin a task."""

    def __init__(self, *, places: int = 4, tasks: str = TASKS) -> None:
        """``places``: children that decode pictures at once; each may take ``limits.PICTURE.memory``.

        Starts nothing; ``open`` does, and the first task."""
        self._places = threading.BoundedSemaphore(places)
        self._tasks = tasks
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="sandbox")
        self._lock = threading.Lock()
        self._idle: dict[Limits, list[_Child]] = {}
        self._all: set[_Child] = set()
        self._closed = False

    def open(self, limits: Limits) -> None:
        """Start a child for tasks with these limits before there is one."""
        with self._lock:
            if not self._closed:
                self._starter.submit(self._spare, limits)

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
                decoding.future.set_result(self._run(decoding, request, sources, targets, limits, report))
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                decoding.future.set_exception(error)

        threading.Thread(target=run, name=f"decode {task}", daemon=True).start()
        return decoding

    def close(self) -> None:
        """End all children, and start no more."""
        with self._lock:
            self._closed = True
        self._starter.shutdown()
        with self._lock:
            children = list(self._all)
        for child in children:
            self._end(child)

    def _run(
        self,
        decoding: Decoding,
        request: wire.Request,
        sources: Sequence[Path],
        targets: Sequence[Path],
        limits: Limits,
        report: Report,
    ) -> bytes:
        with ExitStack() as stack:
            if limits.reused:
                stack.enter_context(self._places)
            child, usable = self._take(limits), False
            try:
                if not decoding.given(child):
                    usable = True
                    raise Undecodable("is not wanted any more")
                opened = wire.Files(
                    [stack.enter_context(path.open("rb")) for path in sources],
                    [stack.enter_context(path.open("wb")) for path in targets],
                )
                answer = child.do(request, opened, report)
                usable = limits.reused
                return answer
            finally:
                if usable:
                    self._keep(limits, child)
                else:
                    self._end(child)

    def _take(self, limits: Limits) -> _Child:
        """An idle child, or a new one. Raises Unavailable."""
        with self._lock:
            if self._closed:
                raise QanvasError("this worker is leaving; the job goes on elsewhere")
            idle = self._idle.get(limits, [])
            found = None
            while idle and found is None:
                child = idle.pop()
                if child.lives:
                    found = child
                else:
                    self._all.discard(child)
                    child.kill()
            starting = self._starter.submit(self._start, limits) if found is None else None
            if limits.reused and not idle:
                self._starter.submit(self._spare, limits)
        if found is not None:
            return found
        assert starting is not None
        try:
            return starting.result()
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable("a process that decodes files could not be started", str(error)) from error

    def _start(self, limits: Limits) -> _Child:
        child = _Child(limits, self._tasks)
        with self._lock:
            self._all.add(child)
        return child

    def _spare(self, limits: Limits) -> None:
        """Start a child for the next task, where none waits for one."""
        with self._lock:
            if self._closed or self._idle.get(limits):
                return
        try:
            self._keep(limits, self._start(limits))
        except OSError as error:  # the task that needs one tells its job
            log.warning("no process to decode files could be started: %s", error)

    def _keep(self, limits: Limits, child: _Child) -> None:
        with self._lock:
            idle = self._idle.setdefault(limits, [])
            if keep := not self._closed and len(idle) < _KEPT:
                idle.append(child)
        if not keep:
            self._end(child)

    def _end(self, child: _Child) -> None:
        child.kill()
        with self._lock:
            self._all.discard(child)


class _Child:
    """A process that decodes, and the line to it. One thread at a time talks to it; any may ``kill``."""

    def __init__(self, limits: Limits, tasks: str) -> None:
        """Raises OSError when it cannot be started."""
        self._memory = limits.memory
        self._greeted = False
        self._ending = threading.Lock()
        self._line, theirs = socket.socketpair()
        words = (theirs.fileno(), os.getpid(), limits.memory, limits.file, tasks)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    # -P: a folder called worker/ where the worker happens to stand is not ours
                    [sys.executable, "-P", "-s", "-m", "worker.media.child", *map(str, words)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # libraries write there what a file tells them to
                    pass_fds=(theirs.fileno(),),
                    env=_environment(),
                    cwd="/",
                    start_new_session=True,
                )
        except BaseException:
            self._line.close()
            raise

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def do(self, request: wire.Request, files: wire.Files, report: Report) -> bytes:
        """The task's answer. Raises as ``Decoding`` does; after an error the child is to be ended."""
        self._await_start()
        deadline = time.monotonic() + request.seconds
        told = 0.0
        try:
            wire.ask(self._line, request, files)
            while True:
                kind, body = wire.receive(self._line, deadline)
                if kind == wire.DONE:
                    return body
                if kind != wire.PROGRESS or len(body) != wire.STEPS.size:
                    raise self._refusal(kind, body)
                if (now := time.monotonic()) - told >= _TELL_EVERY:
                    told = now
                    report(*wire.STEPS.unpack(body))
        except TimeoutError:
            raise _too_slow(request) from None
        except (wire.Ended, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise self._death(request) from None

    def kill(self) -> None:
        """End it, and wait until it is gone."""
        with self._ending:  # a process is waited for once
            if self._process.returncode is None:
                self._process.kill()
                self._process.wait()
            with suppress(OSError):  # a thread that still listens is told
                self._line.shutdown(socket.SHUT_RDWR)

    def _await_start(self) -> None:
        """Raises Unavailable for a child that ends before it begins."""
        if self._greeted:
            return
        try:
            kind, _ = wire.receive(self._line, time.monotonic() + _START)
        except (wire.Ended, OSError) as error:
            code = self._process.poll()
            detail = f"{type(error).__name__}, exit status {code}; run python -P -m worker.media.child to see"
            raise Unavailable("a process that decodes files did not start", detail) from None
        self._greeted = kind == wire.HELLO

    def _refusal(self, kind: bytes, body: bytes) -> Exception:
        """What the child says is wrong."""
        if kind == wire.REFUSED:
            said = body.decode(errors="replace")
            return Undecodable("".join(one if one.isprintable() else " " for one in said))
        if kind == wire.MEMORY:
            return Undecodable(
                f"needs more than the {self._memory >> 20} MiB of memory that decoding it may take; "
                "send a smaller file"
            )
        if kind == wire.FULL:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return Undecodable("confuses its decoder; save it anew with another program and send that")

    def _death(self, request: wire.Request) -> Exception:
        """What the way in which it ended says of what was sent."""
        try:
            code = self._process.wait(_END)
        except subprocess.TimeoutExpired:  # it closed its socket and goes on
            code = 0
        if code == -signal.SIGXCPU:
            return _too_slow(request)
        if code == -signal.SIGKILL:  # nobody here did that
            return OutOfMemory("the system ended the process that decoded a file; memory may be short")
        log.warning("the process that decoded files for task %s ended with %s", request.task, code)
        return Undecodable("makes its decoder crash; save it anew with another program and send that")


def _too_slow(request: wire.Request) -> TooSlow:
    return TooSlow(f"takes longer to decode than the {request.seconds:.3g} s that are allowed; send less")


def _environment() -> dict[str, str]:
    """All that a child's environment holds: nothing of the worker's own, whose secrets it may have."""
    return {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "LC_ALL": "C.UTF-8",
        # threads, and memory for each of them, that a child has no use for
        "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
