"""Jobs start and end though no ticket of theirs can be sent: Redis is full, hangs, or is gone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.messaging.tickets import make_celery
from shared.states import Status
from tests.servers import Qanvas, Valkey, drill_settings, wait_until
from tests.worker.conftest import Shop, open_shop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey of the test's own, to be broken."""
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = Valkey(folder).start()
    yield server
    server.stop()


@pytest.fixture
def shop(database_url: str, own: Valkey, tmp_path: Path, qanvas: Callable[..., Qanvas]) -> Iterator[Shop]:
    with open_shop(drill_settings(tmp_path, database_url, own.url), qanvas) as opened:
        yield opened


def _fill(own: Valkey) -> None:
    assert own.command("CONFIG", "SET", "maxmemory-policy", "noeviction").startswith(b"+OK")
    assert own.command("CONFIG", "SET", "maxmemory", "1").startswith(b"+OK")
    assert b"OOM" in own.command("SET", "k", "v")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_jobs_run_while_redis_is_full_also_on_a_worker_that_starts_meanwhile(shop: Shop, own: Valkey) -> None:
    _fill(own)
    worker = shop.worker(slots=2)
    jobs = [shop.draw(steps=2) for _ in range(6)]
    assert {job.status for job in shop.wait_all(jobs)} == {Status.SUCCEEDED}
    assert worker.stop() == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_that_started_while_redis_was_full_answers_to_celery_later(shop: Shop, own: Valkey) -> None:
    _fill(own)
    shop.worker()
    control = make_celery(shop.settings).control
    assert own.command("CONFIG", "SET", "maxmemory", "0").startswith(b"+OK")
    wait_until(lambda: control.ping(timeout=1.0), 60, what="the worker to answer")


@pytest.mark.chaos
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_jobs_run_while_redis_hangs_and_after_it_was_killed(shop: Shop, own: Valkey) -> None:
    worker = shop.worker()
    assert shop.wait(shop.draw(steps=1)).status is Status.SUCCEEDED
    own.pause()
    assert shop.wait(shop.draw(steps=2), 120).status is Status.SUCCEEDED
    own.resume()
    own.kill()
    assert shop.wait(shop.draw(steps=2), 120).status is Status.SUCCEEDED
    long = shop.draw(steps=400, step_seconds=0.1)
    wait_until(lambda: shop.jobs.get(long).status is Status.RUNNING, 60, what="a job to run")
    worker.process.send_signal(signal.SIGTERM)
    worker.process.send_signal(signal.SIGTERM)  # in a hurry: it is handed back
    worker.wait(60)
    assert shop.jobs.get(long).status is Status.QUEUED


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_with_tickets_about_none_is_taken_past_them(shop: Shop) -> None:
    worker = shop.worker(slots=1)
    jobs = [shop.draw(steps=2, step_seconds=0.2) for _ in range(6)]
    assert {job.status for job in shop.wait_all(jobs)} == {Status.SUCCEEDED}
    assert "without a ticket" not in worker.said()
