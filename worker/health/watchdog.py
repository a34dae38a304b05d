"""Notices threads that hang: no progress where there should be some for too long.

The threads only say what they are at (``Step``); the watchdog looks every second. A thread makes progress by
coming to another step, by reading or writing bytes, and for a while by using the CPU. Past a job's deadline
only another step counts, because a computation that never ends uses the CPU as well.

This is a thread of the same process. Where native code keeps the interpreter's lock it cannot run: nor can
the thread that renews leases, so the leases run out and other workers take the jobs over.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

log = logging.getLogger(__name__)

#: seconds between two looks at most: also how late the deadline of a job is heard while its model loads
_LOOK_EVERY = 0.5
#: the part of a core that a thread must use to count as computing; a loop that polls uses less
_COMPUTING = 0.05
#: bytes between two looks that count as progress; a thread that only logs its waiting writes less
_MOVED_BYTES = 4096
#: a step that only computes, and reaches nothing, may take so many times the limit
_ENDLESS = 5


@dataclass(frozen=True, slots=True)
class Step:
    """What threads are at now. Equal ``what`` and ``began`` on the next look: they are at it still."""

    what: str
    #: ``time.monotonic()`` when they came to it, or last made progress in a way that only they know of
    began: float
    #: ``threading.get_native_id()`` of those that work at it
    threads: tuple[int, ...] = ()
    #: the jobs that it belongs to
    jobs: tuple[str, ...] = ()
    #: whether one of these jobs may be why it hangs, so that their attempts count
    blames: bool = False
    #: ``time.monotonic()`` from which on only another step is progress: the deadline of a job, or when it was
    #: asked to stop
    due: float | None = None
    #: whether threads of a library may do some of it, so that what the process reads from disks counts too
    helped: bool = False
    #: what ends this step alone; None: the worker has to leave
    abandon: Callable[[], None] | None = field(default=None, compare=False)


class Busy:
    """The steps of threads that do one thing each, such as one call of the storage. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[Mark, Step] = {}

    @contextmanager
    def at(
        self, what: str, *jobs: str, blames: bool = False, abandon: Callable[[], None] | None = None
    ) -> Iterator[Mark]:
        """Inside, this thread is at a step; the fields are those of ``Step``."""
        mine = (threading.get_native_id(),)
        mark = Mark(self)
        self.note(mark, Step(what, time.monotonic(), mine, jobs, blames, abandon=abandon))
        try:
            yield mark
        finally:
            self.note(mark, None)

    def note(self, mark: Mark, step: Step | None) -> Step | None:
        """The step that a thread is at now, None for none; returns the one before."""
        with self._lock:
            before = self._steps.pop(mark, None)
            if step is not None:
                self._steps[mark] = step
            return before

    def beat(self, mark: Mark) -> None:
        """Progress was made at a step, unless its thread has left it."""
        with self._lock:
            if (step := self._steps.get(mark)) is not None:
                self._steps[mark] = replace(step, began=time.monotonic())

    def steps(self) -> list[Step]:
        """Those that threads are at now."""
        with self._lock:
            return list(self._steps.values())


class Mark:
    """A step that a thread is at, for that thread to move on."""

    def __init__(self, busy: Busy) -> None:
        self._busy = busy

    def beat(self) -> None:
        """Progress was made. Any thread."""
        self._busy.beat(self)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Inside, the thread waits for something that is bounded, or watched itself."""
        step = self._busy.note(self, None)
        try:
            yield
        finally:
            self._busy.note(self, step and replace(step, began=time.monotonic()))


@dataclass(slots=True)
class _Seen:
    """A step as it was seen so far; times by the watchdog's own clock."""

    #: when it was first seen, or bytes last moved
    moved: float
    #: when its threads were last seen to compute, and the CPU seconds they had used by then
    stirred: float
    cpu: float
    bytes: int
    #: when it was first seen past its due time
    overdue: float | None = None
    #: that it hangs has been told
    told: bool = False


class Watchdog:
    """Looks at the steps, and hands those that hang to ``hung``, each once."""

    def __init__(
        self,
        seconds: float,
        steps: Callable[[], Iterable[Step]],
        hung: Callable[[Collection[Step]], None],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """``seconds`` without progress are a hang. ``tick`` is called before each look."""
        self._seconds = seconds
        self._every = min(_LOOK_EVERY, seconds / 4)
        self._steps = steps
        self._hung = hung
        self._tick = tick
        self._seen: dict[tuple[str, float, tuple[int, ...]], _Seen] = {}
        #: seconds for which this thread could look: while the process is stopped nothing can make progress
        self._clock = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Look no more; does not wait for it."""
        self._closed.set()

    def look(self, elapsed: float) -> list[Step]:
        """The steps that now hang, and did not yet. ``elapsed``: seconds since the last look in which this
        process could run."""
        self._clock += elapsed
        steps = {(step.what, step.began, step.threads): step for step in self._steps()}
        self._seen = {key: self._see(self._seen.get(key), step) for key, step in steps.items()}
        return [step for key, step in steps.items() if self._begins_to_hang(self._seen[key])]

    def _see(self, seen: _Seen | None, step: Step) -> _Seen:
        now = self._clock
        cpu, moved = used_by(step.threads, helped=step.helped)
        if seen is None:
            return _Seen(now, now, cpu, moved)
        if moved - seen.bytes >= _MOVED_BYTES:
            seen.moved, seen.bytes = now, moved
        if cpu - seen.cpu >= _COMPUTING * (now - seen.stirred):
            seen.stirred, seen.cpu = now, cpu
        if step.due is None or time.monotonic() < step.due:
            seen.overdue = None
        elif seen.overdue is None:
            seen.overdue = now
        return seen

    def _begins_to_hang(self, seen: _Seen) -> bool:
        if seen.told:
            return False
        silent = self._clock - max(seen.moved, seen.stirred)
        seen.told = silent > self._seconds or self._clock - seen.moved > _ENDLESS * self._seconds
        if seen.overdue is not None:
            seen.told = seen.told or self._clock - seen.overdue > self._seconds
        return seen.told

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._closed.wait(self._every):
            now = time.monotonic()
            try:
                self._tick()
                if hanging := self.look(min(now - last, 2 * self._every)):
                    self._hung(hanging)
            except Exception:
                log.exception("the watchdog missed a look")
            last = now


def used_by(threads: Iterable[int], *, helped: bool = False) -> tuple[float, int]:
    """CPU seconds that these threads have used, and bytes that they have read and written; ``helped``: with
    those that the whole process has read from disks.

    Only Linux tells: elsewhere they count as computing all the time."""
    if not _SELF.is_dir():
        return time.monotonic(), 0
    cpu = sum(_cpu(_SELF / "task" / str(thread) / "stat") for thread in threads)
    moved = sum(_bytes(_SELF / "task" / str(thread) / "io", _MOVED) for thread in threads)
    return cpu, moved + (_bytes(_SELF / "io", _FROM_DISKS) if helped else 0)


_SELF = Path("/proc/self")
_FROM_DISKS = ("read_bytes:",)  # and what is mapped is in there alone
_MOVED = ("rchar:", "wchar:", *_FROM_DISKS)


def _cpu(stat: Path) -> float:
    """Seconds; 0 for a thread that has ended."""
    try:
        fields = stat.read_text().rpartition(")")[2].split()  # the name before may hold anything
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def _bytes(io: Path, wanted: tuple[str, ...]) -> int:
    """0 for a thread that has ended, or where the kernel does not say."""
    try:
        return sum(int(line.split()[1]) for line in io.read_text().splitlines() if line.startswith(wanted))
    except (OSError, ValueError, IndexError):
        return 0
