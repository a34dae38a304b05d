"""What the kiln adds to a request that nobody shares with: it and the bare pipeline, by turns.

Each has a process of its own, as in earnest: numeric libraries give every thread that computes its helpers,
and in one process those of the two would be in each other's way.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from bench.kiln_models import Subject, subjects
from bench.kiln_systems import InKiln, Request, Sequential, System
from worker.kiln.devices import find_device

#: requests until a process is warm
_WARM = 5
#: pairs of processes: where a process happens to lie in memory makes a difference of some percent
_PAIRS = 5


@dataclass(frozen=True, slots=True)
class Lone:
    """Medians for one request that nobody shares with: seconds as a call of the pipeline and in the kiln,
    and of the ratios of neighbours."""

    plain: float
    kiln: float
    ratio: float


def lone(subject: Subject, device: str, steps: int, count: int) -> Lone:
    """So many pairs of requests, in changing order, in each of some pairs of processes."""
    pairs = [pair for _ in range(_PAIRS) for pair in _neighbours(subject, device, steps, count)]
    return Lone(
        statistics.median(plain for plain, _ in pairs),
        statistics.median(kiln for _, kiln in pairs),
        statistics.median(kiln / plain for plain, kiln in pairs),
    )


def _neighbours(subject: Subject, device: str, steps: int, count: int) -> list[tuple[float, float]]:
    """Seconds of requests one after the other, as a call of the pipeline and in the kiln."""
    with _process("sequential", subject, device) as plain, _process("kiln", subject, device) as kiln:
        pairs = []
        for number in range(count + _WARM):
            turns = (plain, kiln) if number % 2 == 0 else (kiln, plain)
            took = {turn: _ask(turn, Request(number, steps)) for turn in turns}
            pairs.append((took[plain], took[kiln]))
    return pairs[_WARM:]


def _ask(process: Connection, request: Request) -> float:
    process.send(request)
    seconds: float = process.recv()
    return seconds


@contextmanager
def _process(system: str, subject: Subject, device: str) -> Iterator[Connection]:
    start = multiprocessing.get_context("spawn")
    ours, theirs = start.Pipe()
    child = start.Process(target=_serve, args=(system, subject.key, device, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        child.join()


def _serve(name: str, key: str, device_name: str, asked: Connection) -> None:
    """Seconds for each request, until there are no more."""
    device = find_device(device_name)
    subject = next(each for each in subjects(device) if each.key == key)
    pipe = subject.make()
    system: System = Sequential(pipe) if name == "sequential" else InKiln(pipe, device)
    try:
        while True:
            request = asked.recv()
            began = time.perf_counter()
            system.one(request)
            asked.send(time.perf_counter() - began)
    except EOFError:
        system.close()
