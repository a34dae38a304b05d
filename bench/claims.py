"""What a claim costs at the head of a short and of a deep queue: ``python -m bench.claims``.

All depths lie in one database and are measured in turn, claim by claim, so that whatever else the machine
does meets all of them. After each claim as many jobs are queued again: a queue keeps its depth. For the last
table, jobs are claimed from the deepest queue without a pause, as by a crowd of workers: what earlier claims
leave behind at the head of the index must not slow down later ones.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import report
from shared.database import Database
from shared.jobs.leases import Leases
from shared.jobs.records import NewJob
from shared.jobs.store import JobStore
from tests.servers import Postgres

#: what the claim must not exceed, deepest to shallowest
ALLOWED = 1.5


@dataclass(frozen=True, slots=True)
class Case:
    """How a queue is filled and claimed from; models and tenants take turns."""

    name: str
    tenants: int = 1
    models: tuple[str, ...] = ("a",)
    resident: tuple[str, ...] = ("a",)
    limit: int = 1


CASES = (
    Case("one tenant, one model"),
    Case("1,000 tenants", tenants=1000),
    Case("8 models, one resident", models=tuple("abcdefgh"), resident=("c",)),
    Case("1,000 tenants, 8 models, 8 jobs a claim", 1000, tuple("abcdefgh"), ("c",), 8),
)


class Bench:
    """One database with a queue for each case and depth."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._database.migrate()
        self._store, self._leases = JobStore(self._database), Leases(self._database, 3600.0)
        self._made = 0

    def fill(self, case: Case, queue: str, count: int) -> None:
        """Queue so many more jobs."""
        for start in range(0, count, 1000):
            self._store.submit([self._new(case, queue) for _ in range(min(1000, count - start))])

    def claim(self, case: Case, queue: str) -> float:
        """Milliseconds."""
        began = time.perf_counter()
        claimed = self._leases.claim("wrk_1", queue, limit=case.limit, resident=case.resident)
        seconds = time.perf_counter() - began
        if len(claimed) != case.limit:
            raise RuntimeError(f"claimed {len(claimed)} of {case.limit} jobs of {queue}")
        return 1000 * seconds

    def at_depths(self, case: Case, depths: Sequence[int], rounds: int) -> list[float]:
        """The median for each depth."""
        queues = {depth: f"{case.name}-{depth}" for depth in depths}
        for depth, queue in queues.items():
            self.fill(case, queue, depth)
        times: dict[int, list[float]] = {depth: [] for depth in depths}
        for number in range(rounds + rounds // 10):
            for depth, queue in queues.items():
                taken = self.claim(case, queue)
                self.fill(case, queue, case.limit)
                if number >= rounds // 10:  # the first ones compile statements and warm caches
                    times[depth].append(taken)
        return [statistics.median(times[depth]) for depth in depths]

    def in_a_row(self, depth: int, claims: int) -> tuple[float, float]:
        """The medians of the first and the last tenth of so many claims from a queue that nobody fills."""
        self.fill(CASES[0], "row", depth)
        times = [self.claim(CASES[0], "row") for _ in range(claims)]
        tenth = max(1, claims // 10)
        return statistics.median(times[:tenth]), statistics.median(times[-tenth:])

    def close(self) -> None:
        """Let go of the database."""
        self._database.dispose()

    def _new(self, case: Case, queue: str) -> NewJob:
        self._made += 1
        return NewJob(
            tenant=f"tenant-{self._made % case.tenants}",
            task="text-to-image",
            model=case.models[self._made % len(case.models)],
            queue=queue,
            input={"prompt": "a red apple", "seed": self._made},
        )


@contextmanager
def _databases() -> Iterator[dict[str, Callable[[], str]]]:
    """By name, what makes a fresh one."""
    folder = Path(tempfile.mkdtemp(prefix="qanvas-claims-"))
    (folder / "postgres").mkdir()
    postgres = Postgres(folder / "postgres", fsync=True).start()
    try:
        yield {"SQLite": lambda: f"sqlite:///{folder / 'claims.db'}", "PostgreSQL": postgres.create}
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


def run(depths: Sequence[int], rounds: int, row: int) -> str:
    """All of it, as Markdown."""
    by_depth = [["ms a claim, median", *(f"{depth:,} queued" for depth in depths), "deepest / shallowest"]]
    in_a_row = [["", "ms, first tenth", "ms, last tenth", "last / first"]]
    with _databases() as databases:
        for name, url in databases.items():
            bench = Bench(url())
            for case in CASES:
                medians = bench.at_depths(case, depths, rounds)
                shown = [f"{median:.2f}" for median in medians]
                by_depth.append([f"{name}: {case.name}", *shown, f"{medians[-1] / medians[0]:.2f}"])
                print(by_depth[-1], flush=True)
            first, last = bench.in_a_row(depths[-1], row)
            said = f"{name}: {row:,} claims in a row from {depths[-1]:,} queued"
            in_a_row.append([said, f"{first:.2f}", f"{last:.2f}", f"{last / first:.2f}"])
            bench.close()
    return f"{report.table(by_depth)}\n\nAllowed: {ALLOWED}.\n\n{report.table(in_a_row)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="a short look at shallow queues")
    options = parser.parse_args()
    machine = report.machine()
    if options.quick:
        text = run((100, 1000, 5000), 60, 1000)
    else:
        text = run((100, 10_000, 200_000), options.rounds, 20_000)
    print(f"{machine}\n\n{text}")


if __name__ == "__main__":
    main()
