"""The guard (``cli.embedded.guard``) as the supervisor sees it: started, told, and replaced when it dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping

from cli.embedded import guard
from cli.embedded.restarts import Complaints, Restarts
from cli.signals import undisturbed

#: seconds that it may take to end when it is told to
_END_SECONDS = 1.0


class Guard:
    """Kills process groups when this process is killed. It is told of them with each ``tend``."""

    def __init__(self, env: Mapping[str, str], complaints: Complaints) -> None:
        self._env = dict(env)
        self._complaints = complaints
        self._restarts = Restarts()
        self._process: subprocess.Popen[bytes] | None = None
        self._known: set[int] = set()

    def tend(self, groups: Collection[int]) -> None:
        """See that a guard lives and knows just these groups."""
        now = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            self._drop(now)
        with self._complaints.survive("start the guard, which ends all processes should this one be killed"):
            if self._process is None and now >= self._restarts.due:
                self._start(now)
        self._tell(*(f"+{group}" for group in set(groups) - self._known))
        self._tell(*(f"-{group}" for group in self._known - set(groups)))
        self._known = set(groups) if self._process is not None else set()

    def close(self) -> None:
        """End it: there is nothing to guard any more."""
        if self._process is None:
            return
        self._tell("done")
        if self._process is not None:
            _end(self._process)
            self._process = None

    def _start(self, now: float) -> None:
        self._restarts.begin(now)
        try:
            with undisturbed():
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", guard.__file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    bufsize=0,
                    start_new_session=True,
                    env=self._env,
                )
            assert self._process.stdin is not None
            # one that is stopped reads nothing: its pipe fills up, and must not hold up this process
            os.set_blocking(self._process.stdin.fileno(), False)
        except Exception:
            self._restarts.died(now)
            raise

    def _drop(self, now: float) -> None:
        """It is dead, or hears nothing: forget it, so that another takes its place."""
        if self._process is not None:
            self._process.kill()  # before its pipe is closed, by which it would take this process for dead
            _end(self._process)
        self._process, self._known = None, set()
        self._restarts.died(now)

    def _tell(self, *lines: str) -> None:
        if self._process is None or self._process.stdin is None or not lines:
            return
        try:
            self._process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        except OSError:  # it died just now
            self._drop(time.monotonic())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close its pipe and wait for its end; kill it when it takes too long."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
