"""The worker's end of a process that forks decoders, and what the way in which they end says of a file."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress

from shared.errors import OutOfMemory, Unavailable
from worker.media import wire
from worker.media.limits import Limits
from worker.media.wire import Report, Undecodable

log = logging.getLogger(__name__)

#: seconds the process may take to start, on a machine that is busy and whose disk is cold
_START = 60.0
#: seconds for which a decoder that has answered, or closed its line, may take to be gone
_END = 5.0
#: seconds between two reports that are passed on, whatever the decoder sends
_TELL_EVERY = 0.05


class TooSlow(Undecodable):
    """The time that the task may take has run out."""


class Starter:
    """A process that forks decoders, one at a time. One thread at a time talks to it; any may ``kill`` it."""

    def __init__(self, limits: Limits, tasks: str) -> None:
        """Raises OSError when it cannot be started."""
        self._memory = limits.memory
        #: what it says next: that it can begin, or that its decoder has ended
        self._says = wire.HELLO
        self._idle = False
        self._ending = threading.Lock()
        self._control, theirs = socket.socketpair()
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
            self._control.close()
            raise

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def do(self, request: wire.Request, files: wire.Files, report: Report) -> bytes:
        """A decoder's answer. Raises as ``Decoding`` does."""
        if not self.is_idle():
            detail = f"exit status {self._process.poll()}; run python -P -m worker.media.child to see why"
            raise Unavailable("a process that decodes files did not start", detail)
        self._idle = False
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    wire.hand_over(self._control, theirs)
                wire.ask(ours, request, files)
                return self._answer(ours, time.monotonic() + request.seconds, report)
            except TimeoutError:
                self.kill()
                raise _too_slow(request) from None
            except wire.Nonsense:
                self.kill()
                raise _confused() from None
            except (wire.Ended, ConnectionError):
                raise self._death(request) from None

    def is_idle(self) -> bool:
        """Whether it can begin a task; waits for a moment where it is about to be able to."""
        if not self._idle:
            try:
                self._heard(_END if self._says == wire.GONE else _START)
            except (wire.Ended, wire.Nonsense, OSError):
                return False
        return True

    def kill(self) -> None:
        """End it and its decoder, and wait until it is gone."""
        with self._ending:  # a process is waited for once
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.kill()
                self._process.wait()
            with suppress(OSError):  # a thread that still listens is told
                self._control.shutdown(socket.SHUT_RDWR)

    def _answer(self, line: socket.socket, deadline: float, report: Report) -> bytes:
        told = 0.0
        while True:
            kind, body = wire.receive(line, deadline)
            if kind == wire.DONE:
                return body
            if kind != wire.PROGRESS or len(body) != wire.STEPS.size:
                raise self._refusal(kind, body)
            if (now := time.monotonic()) - told >= _TELL_EVERY:
                told = now
                report(*wire.STEPS.unpack(body))

    def _heard(self, seconds: float) -> bytes:
        """What it says when it is idle: the body of a ``GONE``, or nothing.

        Raises Ended, Nonsense and OSError."""
        kind, body = wire.receive(self._control, time.monotonic() + seconds)
        if kind != self._says:
            raise wire.Nonsense
        self._says, self._idle = wire.GONE, True
        return body

    def _refusal(self, kind: bytes, body: bytes) -> Exception:
        """What the decoder says is wrong."""
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
        return _confused()

    def _death(self, request: wire.Request) -> Exception:
        """What the way in which the decoder ended says of what was sent."""
        try:
            (code,) = wire.STATUS.unpack(self._heard(_END))
        except wire.Ended:  # so did its starter
            code = self._process.wait()
        except (wire.Nonsense, OSError, struct.error):  # it closed its line and goes on
            self.kill()
            code = 0
        if code == -signal.SIGXCPU:
            return _too_slow(request)
        if code == -signal.SIGKILL:  # nobody here did that
            return OutOfMemory("the system ended the process that decoded a file; memory may be short")
        log.warning("the process that decoded files for task %s ended with %s", request.task, code)
        return Undecodable("makes its decoder crash; save it anew with another program and send that")


def _too_slow(request: wire.Request) -> TooSlow:
    return TooSlow(f"takes longer to decode than the {request.seconds:.3g} s that are allowed; send less")


def _confused() -> Undecodable:
    return Undecodable("confuses its decoder; save it anew with another program and send that")


def _environment() -> dict[str, str]:
    """All that a decoder's environment holds: nothing of the worker's own, whose secrets it may have."""
    return {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "LC_ALL": "C.UTF-8",
        # threads, and memory for each of them, that a decoder has no use for
        "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
