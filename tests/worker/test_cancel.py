"""Being asked to stop: heard at once where Redis answers, and wherever the job is on its way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from shared.catalog.entries.model import Builtin, Model
from shared.catalog.hub import OnProgress
from shared.db.engine import Database
from shared.jobs.workers import Worker
from shared.messaging.events import STOP
from shared.messaging.subscriber import Subscriber
from tests.servers import Valkey, wait_until
from tests.worker.conftest import Shop
from worker.attempts.held_job import HeldJob
from worker.attempts.lease_renewal import LeaseRenewer
from worker.engines.contract.engine import Progress, Stopped, StopReason
from worker.inputs.model_fetcher import ModelFetcher

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

MODEL = Model(id="m", task="t", engine="e", source=Builtin(), input_schema={}, output="image/png")


@pytest.fixture
def held(shop: Shop) -> HeldJob:
    """A job that a worker runs."""
    shop.draw()
    [job] = shop.leases.claim("wrk_1", "default")
    return HeldJob(job, shop.events, begin=lambda job_id, attempt: None)


@pytest.fixture
def keeper(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[LeaseRenewer]:
    """One that renews once a minute, so that whatever it hears, it was told."""
    monkeypatch.setattr("worker.attempts.lease_renewal._LONGEST", 60.0)
    me = Worker(id="wrk_1", host="here", pid=1, device="cpu", slots=1, queues=("default",))
    keeper = LeaseRenewer(shop.leases, shop.registry, 600.0, lambda: me)
    keeper.start()
    yield keeper
    keeper.stop()


def test_a_worker_hears_of_a_cancel_without_waiting_for_a_renewal(
    shop: Shop, held: HeldJob, keeper: LeaseRenewer
) -> None:
    listener = Subscriber(shop.settings.redis_url, STOP, heard=lambda job_id: keeper.look(job_id.decode()))
    listener.start()
    wait_until(lambda: listener.connected, what="the subscription")
    keeper.hold(held)
    shop.jobs.cancel(held.job.id)
    shop.events.ask_to_stop(held.job.id)
    wait_until(lambda: held.reason is StopReason.CANCELED, what="the cancel to be heard")
    listener.close()


def test_word_of_a_cancel_that_the_database_does_not_know_stops_nothing(
    shop: Shop, held: HeldJob, keeper: LeaseRenewer, database: Database
) -> None:
    keeper.hold(held)
    before = shop.jobs.get(held.job.id)
    with ThreadPoolExecutor() as pool:
        list(pool.map(keeper.look, [held.job.id, "job_of_another"]))
    held.latest = {"stage": "draw", "step": 1, "total": 2, "fraction": 0.5}
    keeper.look(held.job.id)
    wait_until(lambda: shop.jobs.get(held.job.id).progress is not None, what="a renewal")
    assert held.reason is None and shop.jobs.get(held.job.id).status is before.status


def test_a_listener_comes_back_when_redis_was_killed_and_says_so(shop: Shop, valkey: Valkey) -> None:
    heard: list[bytes] = []
    changes: list[bool] = []
    listener = Subscriber(shop.settings.redis_url, STOP, heard.append, changes.append)
    listener.start()
    wait_until(lambda: changes == [True], what="the subscription")
    valkey.kill()
    wait_until(lambda: changes == [True, False], what="the loss to be noticed")
    valkey.start()
    wait_until(lambda: changes == [True, False, True], what="the subscription to hold again")
    shop.events.ask_to_stop("job_1")
    wait_until(lambda: heard == [b"job_1"], what="the message")
    listener.close()


def test_a_listener_notices_that_redis_hangs(
    shop: Shop, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.messaging.subscriber._TIMEOUT", 1.0)
    monkeypatch.setattr("shared.messaging.subscriber._ASK_AFTER", 1.0)
    listener = Subscriber(shop.settings.redis_url, STOP, heard=lambda message: None)
    listener.start()
    wait_until(lambda: listener.connected, what="the subscription")
    valkey.pause()
    try:
        wait_until(lambda: not listener.connected, what="the silence to be noticed")
    finally:
        valkey.resume()
    wait_until(lambda: listener.connected, what="the subscription to hold again")
    listener.close()


class SlowFetch:
    """A download that takes as long as the test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = 0
        self.goes_on = threading.Event()

    def __call__(self, model: Model, report: OnProgress) -> Path:
        self.calls += 1
        report(1, 2)
        assert self.goes_on.wait(30)
        return self.folder


def test_a_job_canceled_while_its_model_is_fetched_ends_at_once_and_the_others_get_it(
    shop: Shop, held: HeldJob, tmp_path: Path
) -> None:
    shop.draw()
    other = HeldJob(shop.leases.claim("wrk_1", "default")[0], shop.events, begin=lambda job_id, attempt: None)
    fetch = SlowFetch(tmp_path)
    fetches = ModelFetcher(fetch)
    told: list[Progress] = []

    def wants(one: HeldJob) -> Any:
        return fetches.folder("m", MODEL, told.append, one.wait)

    with ThreadPoolExecutor() as pool:
        canceled, waiting = pool.submit(wants, held), pool.submit(wants, other)
        wait_until(lambda: told, what="progress")
        held.stop(StopReason.CANCELED)
        with pytest.raises(Stopped):
            canceled.result(timeout=30)
        assert not fetch.goes_on.is_set()
        fetch.goes_on.set()
        assert waiting.result(timeout=30) == tmp_path
        assert wants(other) == tmp_path
    assert fetch.calls == 1 and set(told) == {Progress("download", 1, 2)}


def test_a_fetch_that_failed_is_tried_again(shop: Shop, held: HeldJob) -> None:
    def fails(model: Model, report: OnProgress) -> Path:
        raise OSError("no room")

    fetches = ModelFetcher(fails)
    for _ in range(2):
        with pytest.raises(OSError, match="no room"):
            fetches.folder("m", MODEL, lambda progress: None, held.wait)


def test_a_job_that_waited_for_one_thing_hears_of_a_stop_while_it_waits_for_the_next(held: HeldJob) -> None:
    there: Future[int] = Future()
    there.set_result(1)
    assert held.wait(there) == 1
    never: Future[int] = Future()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(held.wait, never)
        assert not wait([waiting], 0.2).done
        held.stop(StopReason.CANCELED)
        try:
            with pytest.raises(Stopped):
                waiting.result(30)
        finally:
            never.cancel()  # or the pool would wait for ever
