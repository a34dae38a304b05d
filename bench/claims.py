"""What a claim costs at the head of a short and of a deep queue: ``python -m bench.claims``.

All depths lie in one database and are measured in turn, claim by claim, so that whatever else the machine
does meets all of them. After each claim as many jobs are queued again: a queue keeps its depth. For the last
table, jobs are claimed from the deepest queue without a pause, as by a crowd of workers: what earlier claims
leave behind at the head of the index must not slow down later ones. Queues are filled by one statement each,
with the tags that submissions would have given; the plans are those of the statements that were sent.
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

import sqlalchemy as sa

from bench import report
from shared.db.engine import Database
from shared.db.tables import jobs, shares
from shared.jobs.entities import NewJob, Submitted
from shared.jobs.leases import Leases
from shared.jobs.store import JobStore
from tests.jobs import plans
from tests.servers import Postgres

#: what the claim must not exceed, deepest to shallowest
ALLOWED = 1.5


@dataclass(frozen=True, slots=True)
class Jobs:
    """What a queue is filled with; models and tenants take turns."""

    name: str
    tenants: int = 1
    models: tuple[str, ...] = ("a",)
    #: every other job is of a tenant that is full
    half_aside: bool = False

    def queue(self, depth: int) -> str:
        """The queue of these jobs that is so deep."""
        return f"{self.name}-{depth}"


ONE = Jobs("one tenant, one model")
MANY = Jobs("1,000 tenants", 1000)
MIXED = Jobs("1,000 tenants, 8 models", 1000, tuple("abcdefgh"))
ASIDE = Jobs("half the queue of a full tenant", 2, half_aside=True)


@dataclass(frozen=True, slots=True)
class Case:
    """How jobs are claimed; ``most``: what each tenant may have running, 0 for any number."""

    jobs: Jobs
    how: str = ""
    resident: tuple[str, ...] = ("a",)
    limit: int = 1
    most: int = 0


CASES = (
    Case(ONE),
    Case(MANY),
    Case(MIXED, ", one resident", ("c",)),
    Case(MIXED, ", 8 jobs a claim", ("c",), 8),
    Case(MANY, ", each with a limit", most=100),
    Case(ASIDE, most=10**9),
)


class Bench:
    """One database with a queue for each case and depth."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._database.migrate()
        self._store = JobStore(self._database)
        self._made = 0

    def fill(self, depths: Sequence[int]) -> None:
        """Make the queues. The indexes are built at the end: with a million rows that takes less time."""
        indexes = [index for index in jobs.indexes if not index.unique]
        for index in indexes:
            index.drop(self._database.engine)
        for kind in (ONE, MANY, MIXED, ASIDE):
            for depth in depths:
                self._fill(kind, depth)
        for index in indexes:
            index.create(self._database.engine)
        if self._database.is_server:  # what autovacuum does within a minute; SQLite has nothing like it
            engine = self._database.engine.execution_options(isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.execute(sa.text("VACUUM ANALYZE"))

    def _fill(self, kind: Jobs, depth: int) -> None:
        """Queue so many jobs where there are none: copies of one that was submitted."""
        queue = kind.queue(depth)
        [first] = self._store.submit([self._new(kind, queue)])
        assert isinstance(first, Submitted)
        series = sa.select(sa.literal(1).label("n")).cte("series", recursive=True)
        series = series.union_all(sa.select(series.c.n + 1).where(series.c.n < depth - 1))
        n = series.c.n
        models = sa.case(*((n % len(kind.models) == i, model) for i, model in enumerate(kind.models)))
        made = {
            "id": jobs.c.id + sa.literal("-") + sa.cast(n, sa.String),
            "tenant": sa.literal("tenant-") + sa.cast(n % kind.tenants, sa.String),
            "model": models,
            "tag": sa.cast((n - n % kind.tenants) / sa.literal_column(str(kind.tenants)), sa.Double),
            "aside": (n % 2 == 1) if kind.half_aside else sa.false(),
        }
        columns = [made.get(column.name, column) for column in jobs.c]
        rows = sa.select(*columns).select_from(jobs.join(series, sa.true())).where(jobs.c.id == first.job.id)
        with self._database.write() as connection:
            connection.execute(sa.insert(jobs).from_select(list(jobs.c), rows))
            connection.execute(sa.delete(shares).where(shares.c.queue == queue))
            finish = {"queue": queue, "priority": 5, "finish": -(-depth // kind.tenants)}
            named = [{**finish, "tenant": f"tenant-{number}"} for number in range(kind.tenants)]
            connection.execute(sa.insert(shares), named)

    def claim(self, case: Case, queue: str) -> float:
        """Milliseconds."""
        leases = Leases(self._database, 3600.0, running_limit=lambda _tenant: case.most)
        began = time.perf_counter()
        claimed = leases.claim("wrk_1", queue, limit=case.limit, resident=case.resident)
        seconds = time.perf_counter() - began
        if len(claimed) != case.limit:
            raise RuntimeError(f"claimed {len(claimed)} of {case.limit} jobs of {queue}")
        return 1000 * seconds

    def at_depths(self, case: Case, depths: Sequence[int], rounds: int) -> list[float]:
        """The median for each depth."""
        queues = {depth: case.jobs.queue(depth) for depth in depths}
        times: dict[int, list[float]] = {depth: [] for depth in depths}
        for number in range(rounds + rounds // 10):
            for depth, queue in queues.items():
                taken = self.claim(case, queue)
                self._store.submit([self._new(case.jobs, queue) for _ in range(case.limit)])
                if number >= rounds // 10:  # the first ones compile statements and warm caches
                    times[depth].append(taken)
        return [statistics.median(times[depth]) for depth in depths]

    def plans(self, case: Case, queue: str) -> list[str]:
        """How the database goes about each statement of a claim that reads or moves jobs."""
        with plans.sent(self._database) as found:
            self.claim(case, queue)
        told = []
        for text, given in found:
            if "jobs" in text and text.startswith(("SELECT", "UPDATE")):
                steps = plans.plan(self._database, (text, given)).text.strip().splitlines()
                told.append(f"{text.split()[0]}: {' < '.join(step.strip() for step in steps)}")
        return told

    def in_a_row(self, depth: int, claims: int) -> tuple[float, float]:
        """The medians of the first and the last tenth of so many claims from a queue that nobody fills."""
        times = [self.claim(CASES[0], CASES[0].jobs.queue(depth)) for _ in range(claims)]
        tenth = max(1, claims // 10)
        return statistics.median(times[:tenth]), statistics.median(times[-tenth:])

    def close(self) -> None:
        """Let go of the database."""
        self._database.dispose()

    def _new(self, kind: Jobs, queue: str) -> NewJob:
        self._made += 1
        return NewJob(
            tenant=f"tenant-{self._made % kind.tenants}",
            task="text-to-image",
            model=kind.models[self._made % len(kind.models)],
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
    told = []
    with _databases() as databases:
        for name, url in databases.items():
            bench = Bench(url())
            bench.fill(depths)
            for case in CASES:
                medians = bench.at_depths(case, depths, rounds)
                shown = [f"{median:.2f}" for median in medians]
                by_depth.append(
                    [f"{name}: {case.jobs.name}{case.how}", *shown, f"{medians[-1] / medians[0]:.2f}"]
                )
                print(by_depth[-1], flush=True)
            told += [f"{name}, {line}" for line in bench.plans(CASES[1], MANY.queue(depths[-1]))]
            first, last = bench.in_a_row(depths[-1], row)
            said = f"{name}: {row:,} claims in a row from {depths[-1]:,} queued"
            in_a_row.append([said, f"{first:.2f}", f"{last:.2f}", f"{last / first:.2f}"])
            bench.close()
    read = "\n".join(told)
    plan = f"The plans of a claim from {depths[-1]:,} jobs of 1,000 tenants, outermost step first:"
    tables = f"{report.table(by_depth)}\n\nAllowed: {ALLOWED}.\n\n{report.table(in_a_row)}"
    return f"{tables}\n\n{plan}\n\n```\n{read}\n```"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--row", type=int, default=5000, help="claims in a row")
    parser.add_argument("--quick", action="store_true", help="a short look at shallow queues; writes nothing")
    options = parser.parse_args()
    machine, began = report.machine(), time.monotonic()
    if options.quick:
        text = run((100, 1000, 5000), 30, 300)
    else:
        text = run((100, 10_000, 200_000), options.rounds, options.row)
    took = f"{machine} It took {time.monotonic() - began:.0f} s."
    print(f"{took}\n\n{text}")
    if not options.quick:
        report.write_result("claims", f"{took}\n\n{text}")


if __name__ == "__main__":
    main()
