"""The process that starts decoders: ``python -P -m worker.media.child CONTROL PARENT MEMORY FILE TASKS``.

``CONTROL`` is the descriptor of its socket, ``PARENT`` the id of the process that started it, ``MEMORY`` and
``FILE`` are limits in bytes, and ``TASKS`` names the module whose table ``TASKS`` says what can be done.

It loads the decoding libraries and forks a process for each task, which waits for it, decodes its files and
ends: nothing that a file does to a decoder is there when the next one is decoded. All of them end with the
worker.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from worker.media import wire

_PR_SET_PDEATHSIG = 1
#: open files at most: the task's own, the socket, and those that a library opens for a moment
_MOST_OPEN = 64
#: the exit status of a decoder for which there will be no task
_NOTHING = 3
#: seconds between two frames of progress
_TELL_EVERY = 0.1


def main() -> None:
    descriptor, parent, memory, file_size = (int(word) for word in sys.argv[1:5])
    _end_with(parent)
    _limit(memory, file_size)
    with suppress(OSError):  # where memory is short, Linux ends this before the worker
        Path("/proc/self/oom_score_adj").write_text("1000")
    control = socket.socket(fileno=descriptor)
    tasks: Mapping[str, wire.Task] = import_module(sys.argv[5]).TASKS
    with suppress(OSError, wire.Ended):  # the worker is gone
        wire.send(control, wire.HELLO)
        while True:
            myself = os.getpid()
            if (pid := os.fork()) == 0:
                _decode(control, tasks, myself)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if status == _NOTHING:
                return
            wire.send(control, wire.GONE, wire.STATUS.pack(status))


def _decode(control: socket.socket, tasks: Mapping[str, wire.Task], parent: int) -> NoReturn:
    """Wait for a line, do the task that is asked for over it, and end this process."""
    status = 1
    try:
        _end_with(parent)
        if (line := wire.next_line(control)) is None:
            os._exit(_NOTHING)
        control.close()  # what may be taken over has no part in the next task
        threading.Thread(target=_end_with_the_line, args=(line.fileno(),), daemon=True).start()
        with suppress(ValueError, OSError):  # no process and no thread from here on, but for root
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        if (asked := wire.asked(line)) is not None:
            _do(line, tasks, *asked)
        status = 0
    finally:
        os._exit(status)


def _end_with(parent: int) -> None:
    """Let the kernel end this process with its parent, where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _end_with_the_line(descriptor: int) -> None:
    """End this process when the worker closes the line, also where the kernel does not."""
    poll = select.poll()
    poll.register(descriptor, 0)  # no events: a hang-up is told all the same
    while not any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poll.poll()):
        continue
    os._exit(1)


def _limit(memory: int, file_size: int) -> None:
    for name, value in (
        ("RLIMIT_CORE", 0),
        ("RLIMIT_FSIZE", file_size),
        ("RLIMIT_NOFILE", _MOST_OPEN),
        ("RLIMIT_AS", memory),
    ):
        # macOS knows RLIMIT_AS but refuses values that are less than what is mapped already
        with suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))


def _do(
    line: socket.socket, tasks: Mapping[str, wire.Task], request: wire.Request, files: wire.Files
) -> None:
    seconds = math.ceil(request.seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    told = 0.0

    def report(done: int, total: int) -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= _TELL_EVERY:
            told = now
            wire.send(line, wire.PROGRESS, wire.STEPS.pack(done, total))

    try:
        try:
            answer = wire.DONE, tasks[request.task](files, request.arguments, report)
        finally:
            for file in (*files.sources, *files.targets):
                file.close()  # what is buffered is written now
    except wire.Undecodable as error:
        answer = wire.REFUSED, str(error).encode(errors="replace")
    except MemoryError:
        answer = wire.MEMORY, b""
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        answer = (wire.FULL, b"") if full else (wire.REFUSED, _unforeseen(error))
    except Exception as error:  # noqa: BLE001 - whatever foreign bytes make a library raise
        answer = wire.REFUSED, _unforeseen(error)
    wire.send(line, *answer)


def _unforeseen(error: Exception) -> bytes:
    return f"is broken ({type(error).__name__}); send a file that other programs can open".encode()


if __name__ == "__main__":
    main()
