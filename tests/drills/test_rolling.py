"""A rolling restart of every worker under load: nothing is lost, and nothing is computed again."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared.db.engine import Database
from shared.jobs.attempts import Attempts
from shared.jobs.store import JobStore
from shared.messaging.events import Events
from tests.drills.audit import audit, unfinished
from tests.drills.clients import Clients
from tests.drills.orders import Order, orders
from tests.drills.stage import stage
from tests.servers import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(600)]


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_rolling_restart_under_load_loses_and_repeats_nothing(tmp_path: Path, dialect: str) -> None:
    todo = good(orders(100, seed=5))
    # nobody dies here: a lease that a busy machine renews too late would look like a job that was repeated
    with stage(tmp_path, dialect, lease=60.0) as up:
        database, events = Database(up.settings.database_url), Events(up.settings.redis_url)
        clients = Clients(up.url, todo, seconds=10.0)
        for number, leaver in enumerate(list(up.workers)):
            up.workers.remove(leaver)
            up.start_worker()
            up.workers[-1].wait_for_line("ready", 120)
            leaver.process.send_signal(signal.SIGTERM)
            if number == 0:  # one of them is in a hurry
                time.sleep(0.2)
                leaver.process.send_signal(signal.SIGTERM)
            assert leaver.wait(60) == 0, leaver.said()
        clients.wait(120)
        wait_until(lambda: unfinished(database) == 0, 120, what="all jobs to end")
        found = audit(up.settings, todo, clients.acknowledged)
        assert not found and not clients.odd, (found, clients.odd)
        for (job_id,) in clients.acknowledged.values():
            job = JobStore(database).get(job_id)
            assert job.attempts == 1, f"{job_id}: {Attempts(database).of([job_id])}"
            drawn = [one.data["step"] for one in events.read(job_id) if one.data.get("stage") == "draw"]
            assert drawn == sorted(drawn), f"{job_id} repeated steps: {drawn}"
        database.dispose()
        events.close()


def good(made: Sequence[Order]) -> list[Order]:
    """Those that succeed in their first attempt, as does all that they wait for."""
    kept: dict[str, Order] = {}
    for order in made:
        if order.endings == {"succeeded"} and not order.failing and kept.keys() >= set(order.waits_for):
            kept[order.key] = order
    return list(kept.values())
