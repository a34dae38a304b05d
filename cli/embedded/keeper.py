"""Programs that are started again when they die, for ever, whatever goes wrong meanwhile.

Starting, recording and guarding may fail, on a full disk say or without free memory: that is said once and
tried again. Only the main thread may use a keeper: a child dies with the thread that started it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.embedded import children
from cli.embedded.folder import DataFolder
from cli.embedded.guarding import Guard
from cli.embedded.restarts import Complaints, Restarts
from cli.signals import undisturbed

log = logging.getLogger(__name__)


@dataclass
class Child:
    """A program that is started again when it dies."""

    name: str
    command: Sequence[str | Path]
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    #: exit statuses after which it stays dead
    final: Collection[int] = ()
    restarts: Restarts = field(default_factory=Restarts)
    #: bytes that its log had when it was started last
    log_start: int = 0

    @property
    def dead(self) -> bool:
        """Whether it was started and has ended since."""
        return self.status is not None

    @property
    def status(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it lives or was not started."""
        return None if self.process is None else self.process.poll()

    def prepare(self) -> None:
        """Called before each start."""

    def look(self) -> None:
        """Called now and then while it lives."""

    def ended(self) -> None:
        """Called after each death, before the next start."""

    def said(self) -> str:
        """The end of what it wrote to its log since it was started."""
        return children.tail(self.log, self.log_start)


class Keeper:
    """Starts children, starts them again, and ends them."""

    def __init__(self, folder: DataFolder, bare_env: Mapping[str, str]) -> None:
        """``bare_env``: for the guard, which needs none of this process's secrets."""
        self.children: list[Child] = []
        self._folder = folder
        self._complaints = Complaints()
        self._guard = Guard(bare_env, self._complaints)
        self._recorded: list[int] = []

    def add(self, child: Child) -> None:
        """Start a child and keep it. Raises OSError when it cannot be started."""
        self.children.append(child)
        self._launch(child)
        self._note()

    def tend(self) -> None:
        """Start again what died. Call it a few times a second; it raises nothing but what a signal raises."""
        for child in self.children:
            if child.dead:
                if child.status in child.final:
                    continue
                self._bury(child)
            if child.process is not None:
                with self._complaints.survive(f"look after {child.name}"):
                    child.look()
            elif time.monotonic() >= child.restarts.due:
                with self._complaints.survive(f"start {child.name}"):
                    self._launch(child)
        self._note()

    def stop(self, groups: Sequence[tuple[Collection[Child], float]]) -> None:
        """End the children, group by group, each within its seconds; then the guard."""
        with contextlib.ExitStack() as last:
            last.callback(self._guard.close)
            for group, grace in groups:
                children.stop([one.process for one in group if one.process is not None], grace=grace)

    def _launch(self, child: Child) -> None:
        now = time.monotonic()
        child.restarts.begin(now)
        try:
            child.prepare()
            self._folder.log(child.name)
            with contextlib.suppress(OSError):
                child.log_start = child.log.stat().st_size if child.log.exists() else 0
            with undisturbed():
                child.process = children.start(child.command, log=child.log, env=child.env)
        except Exception:
            child.restarts.died(now)
            raise

    def _bury(self, child: Child) -> None:
        assert child.process is not None and child.status is not None
        status = child.status
        children.signal_group(child.process.pid, signal.SIGKILL)  # what it started itself goes with it
        child.process = None
        wait = child.restarts.died(time.monotonic())
        log.warning(
            "%s ended (%s), starting it again in %.0f s; see %s", child.name, why(status), wait, child.log
        )
        with self._complaints.survive(f"clear up after {child.name}"):
            child.ended()

    def _note(self) -> None:
        """Let the guard, and whoever finds this folder after a crash, know of the processes of now."""
        pids = [one.process.pid for one in self.children if one.process is not None]
        self._guard.tend(pids)
        with self._complaints.survive("write to the data folder which processes run"):
            if pids != self._recorded:
                self._folder.record(pids)
                self._recorded = pids
            self._folder.write()


def why(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):  # real-time signals have no name
        return f"signal {signal.Signals(-status).name}"
    return f"signal {-status}"
