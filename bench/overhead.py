"""What Qanvas costs a job that costs nothing: ``python -m bench.overhead`` writes bench/results/overhead.md.

The `fake` model at zero steps, 8 x 8 pixels, over HTTP, with real processes on one machine; beside it plain
Celery with late acknowledgement on the same Valkey, doing the same work, in the same run. Each system is
measured in turn, several times over; a figure is the median of the rounds. Submissions take turns with a
route that does nothing, on a server beside, as a machine's mood may change within a minute.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from bench import report
from bench.load import Sample
from bench.steps import cost_of_steps
from bench.subjects import FEW, MANY, CelerySubject, QanvasSubject, Subject
from tests.servers import Postgres, Valkey


@dataclass(slots=True)
class Figures:
    """One system in one round; rates in 1/s, times in milliseconds, None where it does not apply.
    ``many``: over 64 connections instead of 16. ``noop``: the route that does nothing, in the same seconds;
    ``to_noop``: submissions to that."""

    noop_rate: float | None = None
    noop_many: float | None = None
    submit_rate: float | None = None
    submit_p99: float | None = None
    submit_to_noop: float | None = None
    submit_many: float | None = None
    submit_many_p99: float | None = None
    submit_many_to_noop: float | None = None
    drain_rate: float | None = None
    through_rate: float | None = None
    end_p50: float | None = None
    end_p99: float | None = None
    wait_p50: float | None = None
    wait_p99: float | None = None
    submit_cpu: float | None = None
    run_cpu: float | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    warm: int = 100
    submits: int = 400  #: in one turn
    turns: int = 5
    through: int = 1000
    rate: float = 20.0  #: jobs per second, for the times
    seconds: float = 20.0


def measure(subject: Subject, idle: CelerySubject, sizes: Sizes) -> Figures:
    """All figures of one system, beside the route of ``idle`` that does nothing. The queue is filled first,
    so that its server and its worker are measured apart; then both together."""
    figures = Figures()
    with subject.server():
        warm = subject.submit(sizes.warm)
        few, many = (_submit(subject, idle, sizes, connections) for connections in (FEW, MANY))
        figures.submit_cpu = 1000 * few.cpu / len(few.samples)
        figures.submit_rate, figures.noop_rate, figures.submit_to_noop = few.rates()
        figures.submit_many, figures.noop_many, figures.submit_many_to_noop = many.rates()
        figures.submit_p99, figures.submit_many_p99 = few.p99(), many.p99()
        with subject.worker():
            _drain(subject, [*warm, *few.samples, *many.samples], figures)
            samples = subject.submit(sizes.through)
            last = max(subject.wait_for(samples))
            figures.through_rate = len(samples) / (last - min(s.due for s in samples))
            samples = subject.submit_at(sizes.rate, sizes.seconds)
            ends = subject.announced(samples)
            times = [end - sample.due for end, sample in zip(ends, samples, strict=True)]
            figures.end_p50, figures.end_p99 = _percentile(times, 50), _percentile(times, 99)
            if samples := subject.wait_at(sizes.rate, sizes.seconds):
                times = [s.answered - s.due for s in samples]
                figures.wait_p50, figures.wait_p99 = _percentile(times, 50), _percentile(times, 99)
    return figures


@dataclass(slots=True)
class _Submitted:
    """What came of the turns; ``cpu`` in seconds."""

    samples: list[Sample] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    cpu: float = 0.0

    def rates(self) -> tuple[float, float, float]:
        """Medians of the turns: submissions/s, requests that do nothing, and the one to the other."""
        ratios = [rate / idle for rate, idle in zip(self.rate, self.idle, strict=True)]
        return statistics.median(self.rate), statistics.median(self.idle), statistics.median(ratios)

    def p99(self) -> float:
        return _percentile([one.answered - one.due for one in self.samples], 99)


def _submit(subject: Subject, idle: CelerySubject, sizes: Sizes, connections: int) -> _Submitted:
    """Submissions and requests that do nothing, by turns."""
    found = _Submitted()
    for _ in range(sizes.turns):
        found.idle.append(_rate(idle.noop(3 * sizes.submits, connections)))
        used = subject.cpu()
        samples = subject.submit(sizes.submits, connections)
        found.cpu += subject.cpu() - used
        found.rate.append(_rate(samples))
        found.samples += samples
    return found


def _drain(subject: Subject, waiting: Sequence[Sample], figures: Figures) -> None:
    """The worker's own speed. It has begun already: CPU is counted for what is left when counting begins."""
    before, used = len(subject.ended()), subject.cpu()
    ends = subject.wait_for(waiting)
    figures.run_cpu = 1000 * (subject.cpu() - used) / max(1, len(waiting) - before)
    figures.drain_rate = _steady_rate(ends)


def _rate(samples: Sequence[Sample]) -> float:
    return len(samples) / (max(s.answered for s in samples) - min(s.due for s in samples))


def _steady_rate(ends: Sequence[float]) -> float:
    """Jobs per second without the first and last tenth."""
    ends = sorted(ends)
    first, last = len(ends) // 10, len(ends) - len(ends) // 10 - 1
    return (last - first) / (ends[last] - ends[first])


def _percentile(seconds: Sequence[float], percent: int) -> float:
    return 1000 * statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]


@contextmanager
def _servers(folder: Path) -> Iterator[tuple[Valkey, Postgres]]:
    (folder / "valkey").mkdir()
    (folder / "postgres").mkdir()
    valkey = Valkey(folder / "valkey").start()
    try:
        postgres = Postgres(folder / "postgres", fsync=True).start()
        try:
            yield valkey, postgres
        finally:
            postgres.stop()
    finally:
        valkey.stop()


@contextmanager
def _idle(folder: Path, valkey: Valkey) -> Iterator[CelerySubject]:
    """A server whose route that does nothing is asked beside every system."""
    subject = CelerySubject("nothing", folder / "nothing", valkey.url, [])
    with subject.server():
        subject.noop(200)
        yield subject


def _subjects(folder: Path, valkey: Valkey, postgres: Postgres) -> Iterator[Subject]:
    """Each is made when its turn comes, over an empty database."""
    assert valkey.process is not None and postgres.process is not None
    redis, database = [valkey.process.pid], postgres.process.pid
    yield CelerySubject("Celery", folder / "direct", valkey.url, redis, direct=True)
    yield CelerySubject("Celery + Flask", folder / "flask", valkey.url, redis)
    for processes in (1, 2):
        more = "" if processes == 1 else f", {processes} API processes"
        for name, beside in ((f"Qanvas on SQLite{more}", []), (f"Qanvas on PostgreSQL{more}", [database])):
            url = postgres.create() if beside else f"sqlite:///{folder / name}.db"
            home = folder / name.replace(" ", "-").replace(",", "")
            yield QanvasSubject(name, home, url, valkey.url, [*redis, *beside], api_processes=processes)


def run(rounds: int, sizes: Sizes) -> dict[str, Figures]:
    """The median of the rounds for each system."""
    found: dict[str, list[Figures]] = {}
    folder = Path(tempfile.mkdtemp(prefix="qanvas-overhead-"))
    try:
        with _servers(folder) as (valkey, postgres), _idle(folder, valkey) as idle:
            for number in range(rounds):
                turn = folder / str(number)
                turn.mkdir()
                for subject in _subjects(turn, valkey, postgres):
                    valkey.flush()
                    figures = measure(subject, idle, sizes)
                    found.setdefault(subject.name, []).append(figures)
                    known = {name: value for name, value in asdict(figures).items() if value is not None}
                    print(
                        f"{subject.name}: {json.dumps({n: round(v, 1) for n, v in known.items()})}",
                        flush=True,
                    )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {name: _median(rounds) for name, rounds in found.items()}


def _median(rounds: Sequence[Figures]) -> Figures:
    middle = {}
    for known in fields(Figures):
        values = [value for one in rounds if (value := getattr(one, known.name)) is not None]
        middle[known.name] = statistics.median(values) if values else None
    return Figures(**middle)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a short look; writes nothing")
    options = parser.parse_args()
    sizes = Sizes(warm=50, submits=200, turns=2, through=300, seconds=3.0) if options.quick else Sizes()
    machine = report.machine()
    found = run(1 if options.quick else options.rounds, sizes)
    with tempfile.TemporaryDirectory(prefix="qanvas-steps-") as scratch, _servers(Path(scratch)) as servers:
        steps = cost_of_steps(Path(scratch), *servers)
    text = report.tables(found, steps, machine)
    print(text)
    if not options.quick:
        report.write(text, found)


if __name__ == "__main__":
    main()
