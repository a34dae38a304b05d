"""Who waits for a model is told so, as long as it is loaded and no longer: through a real kiln."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.usecases.services import Services
from shared.catalog.entries.model import Model
from shared.jobs.entities import Job
from tests.api.helpers import Api, Hand
from tests.servers import wait_until
from worker.attempts.held_job import HeldJob
from worker.attempts.lease_renewal import LeaseRenewer
from worker.engines.contract.engine import Context, Device, Progress, Result, Work
from worker.kiln.kiln import Kiln
from worker.kiln.kiln_job import Order

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Slow:
    """An engine that loads, and then computes, when it is let."""

    def __init__(self) -> None:
        self.may_load, self.may_end = threading.Event(), threading.Event()

    def load(self, model: Model, folder: Path | None, device: Device) -> None:
        assert self.may_load.wait(60)

    def nbytes(self, loaded: None) -> int:
        return 5

    def run(self, loaded: None, work: Work, context: Context) -> Result:
        context.boundary(Progress("draw", 1, 2))
        assert self.may_end.wait(60)
        return Result()


def order(job: Job, engine: Slow, services: Services, scratch: Path) -> Order:
    return Order(
        work=Work(job_id=job.id, task=job.task, input=job.input),
        model=services.catalog.get(job.model, job.tenant),
        model_key=job.model,
        folder=None,
        engine=engine,
        scratch=scratch / job.id,
    )


@one_database
def test_a_running_job_a_queued_one_and_the_list_of_workers_say_what_is_loaded(
    api: Api, hand: Hand, services: Services, tmp_path: Path
) -> None:
    engine, kiln = Slow(), Kiln(Device(), 100)
    keeper = LeaseRenewer(
        hand.leases,
        services.registry,
        services.settings.lease_seconds,
        lambda: replace(hand.worker, models=kiln.models, loading=kiln.loading, memory=kiln.memory),
    )
    keeper.start()
    try:
        submitted = [api.submit() for _ in range(3)]
        other = api.submit(model="starter-gan", input={})
        jobs = [hand.claim() for _ in range(2)]

        def told(job: dict[str, Any]) -> Any:
            waiting = (api.get(job["urls"]["self"]).json or {})["waiting"]
            return waiting and waiting["reason"]

        def all_are(*reasons: str | None) -> Callable[[], bool]:
            return lambda: [told(job) for job in submitted] == list(reasons)

        def shown() -> Any:
            [worker] = (api.get("/v1/workers").json or {})["data"]
            return worker["loading"], worker["models"], worker["memory"]

        wait_until(all_are(None, None, "behind-others"), 10, what="a job that nobody loads anything for")
        kiln.submit(
            order(jobs[0], engine, services, tmp_path), first := HeldJob(jobs[0], services.events, _begin)
        )
        wait_until(all_are("loading-model", None, "loading-model"), 20, what="the load to be told")
        kiln.submit(order(jobs[1], engine, services, tmp_path), HeldJob(jobs[1], services.events, _begin))
        wait_until(all_are(*["loading-model"] * 3), 20, what="a job that came during the load to be told")
        assert shown() == ("fake", [], {"budget": 100, "models": 0})
        assert told(other) == "behind-others"
        engine.may_load.set()
        wait_until(all_are(None, None, "behind-others"), 20, what="the end of the load to be told")
        assert first.latest is not None and first.latest["stage"] == "draw"
        wait_until(lambda: shown() == (None, ["fake"], {"budget": 100, "models": 5}), 20, what="the model")
    finally:
        engine.may_load.set()
        engine.may_end.set()
        kiln.close(timeout=20)
        keeper.stop()


def _begin(job_id: str, attempt: int) -> None: ...
