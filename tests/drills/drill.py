"""One drill from the first submission to the audit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.database import Database
from tests.drills.audit import Findings, audit, unfinished
from tests.drills.clients import Clients, orders
from tests.drills.faults import inject
from tests.drills.stage import Stage, stage

#: seconds that everything may take to end once nothing breaks any more
PATIENCE = 180.0


@dataclass(frozen=True, slots=True)
class Report:
    """What was broken, and what came of it. ``str`` of it is what a drill prints."""

    database: str
    seed: int
    jobs: int
    faults: Mapping[str, int]
    retries: int
    odd: tuple[str, ...]
    seconds: float
    found: Findings

    def __str__(self) -> str:
        broken = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        found = self.found
        head = (
            f"{self.database}, seed {self.seed}: {self.jobs} jobs in {self.seconds:.0f} s; {broken}; "
            f"{self.retries} requests repeated\n"
            f"lost {len(found.lost)}, doubled {len(found.doubled)}, stuck {len(found.stuck)}; "
            f"files orphaned {len(found.orphaned)}"
        )
        return "\n".join([head, *found.lost, *found.doubled, *found.stuck, *found.orphaned, *self.odd])


def drill(folder: Path, dialect: str, *, seed: int, jobs: int, seconds: float) -> Report:
    """Submit ``jobs`` over ``seconds`` while things break, let all end in peace, then look what is true."""
    began = time.monotonic()
    todo = orders(jobs, seed)
    with stage(folder, dialect) as up:
        clients = Clients(up.url, todo, seconds)
        faults = inject(up, seed, seconds)
        clients.wait(PATIENCE)
        _wait_for_the_end(up)
        for worker in up.workers:
            worker.stop(60)
        return Report(
            database=dialect,
            seed=seed,
            jobs=jobs,
            faults=faults,
            retries=clients.retries,
            odd=tuple(clients.odd),
            seconds=time.monotonic() - began,
            found=audit(up.settings, todo, clients.acknowledged),
        )


def _wait_for_the_end(up: Stage) -> None:
    """A job that does not end is the audit's to report, so this gives up without a word."""
    database = Database(up.settings.database_url)
    deadline = time.monotonic() + PATIENCE
    try:
        while unfinished(database) and time.monotonic() < deadline:
            up.revive()  # a job that crashes its worker may do so now
            time.sleep(0.5)
    finally:
        database.dispose()
