"""What webhooks cost: ``python -m bench.webhooks``.

Jobs with and without one through submit, claim and finish, in turn, on both databases; then deliveries to a
real receiver, alone and beside a host that never answers and has as many deliveries due.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.db.engine import Database
from shared.jobs.entities import Finish, NewJob, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.store import JobStore
from shared.outward import Outward
from shared.webhooks.outbox import Outbox
from shared.webhooks.subscription import ENDINGS, Webhook
from tests.receivers import Answer, receiving
from tests.servers import Postgres, wait_until
from worker.services.webhook_delivery import WebhookDelivery

#: jobs in one transaction
_BATCH = 50


def jobs_per_second(database: Database, jobs: int, webhook: Webhook | None) -> float:
    """Submit, claim and finish so many."""
    store, leases = JobStore(database), Leases(database, 30)
    new = NewJob(
        tenant="default", task="text-to-image", model="fake", queue="default", input={}, webhook=webhook
    )
    begun = time.perf_counter()
    for _ in range(jobs // _BATCH):
        store.submit([new] * _BATCH)
        held = leases.claim("wrk_bench", "default", limit=_BATCH)
        leases.finish([Finish(job.id, job.attempt, Succeeded()) for job in held])
    return jobs / (time.perf_counter() - begun)


def deliveries_per_second(database: Database, count: int, *, beside_a_dead_host: bool) -> float:
    """Deliver so many to a receiver that answers at once."""
    ended = threading.Event()

    def hang(*_: object) -> Answer:
        ended.wait(60)
        return Answer()

    with receiving(hang) as dead, receiving() as kind:
        if beside_a_dead_host:
            jobs_per_second(database, count, Webhook(url=dead.url, events=ENDINGS))
        jobs_per_second(database, count, Webhook(url=kind.url, events=ENDINGS))
        deliverer = WebhookDelivery(Outbox(database), Outward(allow_private=True))
        begun = time.perf_counter()
        deliverer.start()
        wait_until(lambda: len(kind.requests) >= count, 600, what="the deliveries")
        seconds = time.perf_counter() - begun
        ended.set()
        deliverer.stop()
    return count / seconds


@contextmanager
def databases() -> Iterator[dict[str, Database]]:
    """A fresh one of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        postgres = Postgres(Path(folder) / "postgres").start()
        opened = {
            "SQLite": Database(f"sqlite:///{folder}/bench.db"),
            "PostgreSQL": Database(postgres.create()),
        }
        try:
            for database in opened.values():
                database.migrate()
            yield opened
        finally:
            for database in opened.values():
                database.dispose()
            postgres.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    told = Webhook(url="https://example.com/hook", events=ENDINGS)
    with databases() as opened:
        for name, database in opened.items():
            rates = [  # in turn, so that noise meets both
                [jobs_per_second(database, options.jobs, webhook) for webhook in (None, told)]
                for _ in range(options.rounds)
            ]
            without, with_one = map(statistics.median, zip(*rates, strict=True))
            print(f"{name}: {without:.0f} jobs/s without, {with_one:.0f} with: {with_one / without:.2f}")
    for beside in (False, True):
        with databases() as opened:
            for name, database in opened.items():
                rate = deliveries_per_second(database, options.jobs // 10, beside_a_dead_host=beside)
                print(f"{name}: {rate:.0f} deliveries/s{' beside a dead host' if beside else ''}")


if __name__ == "__main__":
    main()
