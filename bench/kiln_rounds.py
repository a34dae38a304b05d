"""Measurements side by side: the same requests at the same times for each system, in turn and back again.

A machine that slows down or speeds up meanwhile meets all systems alike: rounds run forth (sequential,
static, kiln) and back, and what is reported is all rounds of a system together.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.kiln_models import Subject
from bench.kiln_systems import MOST, SYSTEMS, Apart, Request
from worker.engines.contract.engine import Device

#: requests of a round at least and at most
_LEAST, _MOST = 12, 400


@dataclass(frozen=True, slots=True)
class Figures:
    """Requests a second; seconds from arrival to picture; forwards of the denoiser."""

    rate: float
    mean: float
    p99: float
    forwards: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of the table; ``systems`` by name."""

    subject: Subject
    #: ``equal`` or ``mixed``
    steps: str
    load: float
    systems: Mapping[str, Figures]


@contextmanager
def systems(subject: Subject, device: Device) -> Iterator[list[Apart]]:
    """The three, warm."""
    with tempfile.TemporaryDirectory(prefix="qanvas-systems-") as scratch:
        folder = subject.saved(Path(scratch))
        made = [Apart(name, folder, device) for name in SYSTEMS]
        try:
            for system in made:
                _warm(system, subject)
            yield made
        finally:
            for system in made:
                system.close()


def _warm(system: Apart, subject: Subject) -> None:
    """Until the kiln knows what each number of rows costs, as a worker does that has run before."""
    for _ in range(2 if system.threads > 1 else 1):
        for count in (1, 2, 4, MOST, system.threads) if system.threads > 1 else (1, MOST):
            requests = [Request(seed, max(subject.equal)) for seed in range(count)]
            system.serve(requests, [0.0] * count)


def capacity(one: Apart, steps: Sequence[int]) -> float:
    """Requests a second that calls one after the other can serve: the median of seven looks."""
    requests = [Request(seed, each) for seed, each in enumerate(sorted(steps) * (4 // len(steps)))]
    looks = [one.serve(requests, [0.0] * len(requests)) for _ in range(7)]
    return len(requests) / statistics.median(looks)


def compare(
    subject: Subject,
    kind: str,
    load: float,
    rate: float,
    made: Sequence[Apart],
    *,
    seconds: float,
    rounds: int,
) -> Measured:
    """The systems with the same requests. ``rate``: what calls one after the other can serve in a second;
    they would be busy for about so many ``seconds`` in each of the ``rounds``."""
    steps = subject.equal if kind == "equal" else subject.mixed
    count = min(_MOST, max(_LEAST, round(seconds * rate * min(load, 1.0))))
    served: dict[str, list[Request]] = {system.name: [] for system in made}
    took = dict.fromkeys(served, 0.0)
    before = {system.name: system.forwards for system in made}
    for number in range(rounds):
        drawn = random.Random(f"{kind} {load} {number}")
        gaps = [drawn.expovariate(load * rate) for _ in range(count)]
        chosen = [drawn.choice(steps) for _ in range(count)]
        for system in made if number % 2 == 0 else reversed(made):
            requests = [Request(seed, each) for seed, each in enumerate(chosen)]
            took[system.name] += system.serve(requests, gaps)
            served[system.name] += requests
    found = {
        system.name: _figures(served[system.name], took[system.name], system.forwards - before[system.name])
        for system in made
    }
    return Measured(subject, kind, load, found)


def _figures(requests: Sequence[Request], took: float, forwards: int) -> Figures:
    times = sorted(request.done - request.due for request in requests)
    last = times[int(0.99 * (len(times) - 1))]
    return Figures(len(requests) / took, statistics.fmean(times), last, forwards)
