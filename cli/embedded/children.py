"""Child processes that end with their parent, however it ends.

Each child leads a process group of its own, so that Ctrl-C reaches the supervisor alone and a group can be
ended with all that its leader started. On Linux the kernel kills a child whose parent is gone; a guard
(``cli.embedded.guard``) does the same for whole groups and on other systems.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

_PR_SET_PDEATHSIG = 1
#: seconds that the kernel may take for what is killed
_KILLED_SECONDS = 1.0
_TAIL_LINES, _TAIL_BYTES = 15, 1 << 16

log = logging.getLogger(__name__)


def die_with_parent() -> Callable[[], None]:
    """What a child runs between fork and exec.

    The kernel ties the signal to the *thread* that forks: start children from the main thread only.
    """
    parent = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before the fork, not after

    def arrange() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the kernel knew
                os._exit(1)

    return arrange


def start(
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in its own process group, its output appended to ``log``, or dropped where that cannot be
    opened. Raises OSError."""
    with _appended(log) as output:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            user=user,
            group=user,
            extra_groups=() if user is not None else None,
            process_group=0,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - two system calls, no lock is taken
        )


def _appended(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:  # a full disk is no reason not to start
        null = open(os.devnull, "ab")  # noqa: PTH123, SIM115 - the caller closes it
        log.warning("cannot write %s: %s; what would be said there is lost", path, error.strerror)
        return null


def signal_group(group: int, number: signal.Signals) -> None:
    """Signal a whole process group; a group that is gone is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def stop(processes: Iterable[subprocess.Popen[bytes]], *, grace: float) -> None:
    """Ask all to end, wait ``grace`` seconds in all, then kill what is left, with what they started."""
    running = list(processes)
    for process in running:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + grace
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        signal_group(process.pid, signal.SIGKILL)
    for process in running:
        # one that hangs in the kernel, on a file server that is gone say, ends when that answers
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILLED_SECONDS)


def tail(log: Path, start: int = 0) -> str:
    """The end of a log from that byte on, for the message that says why a child failed."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(min(start, size), size - _TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError:
        return ""
