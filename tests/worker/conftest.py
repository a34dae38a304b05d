"""Real worker processes over a real database and a real Valkey, and jobs for the model for drills."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from shared.catalog.catalog import Catalog
from shared.db.engine import Database
from shared.db.named_locks import NamedLocks
from shared.jobs.completion import CompletionHandler
from shared.jobs.entities import Job, NewJob, Submitted
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.store import JobStore
from shared.jobs.workers import Worker, WorkerRegistry
from shared.messaging.events import Events
from shared.messaging.tickets import Tickets
from shared.settings import Settings
from shared.states import Status
from shared.storage import Storage
from shared.storage.factory import open_storage
from tests.conftest import borrowed_database
from tests.servers import Qanvas, Valkey, drill_settings, wait_until
from worker.attempts.checkpoints import Checkpoints
from worker.attempts.context import WorkerContext
from worker.attempts.lease_renewal import LeaseRenewer
from worker.attempts.leftovers import Leftovers
from worker.attempts.results import Results
from worker.attempts.scratch import Scratch
from worker.attempts.write_probe import WriteProbe

#: short, so that tests need not wait for what dies
LEASE, UPKEEP, RETRY = 1.5, 0.3, 0.2


@dataclass
class Shop:
    """What the API would do, and a look at everything."""

    settings: Settings
    database: Database
    jobs: JobStore
    leases: Leases
    reaper: Reaper
    registry: WorkerRegistry
    catalog: Catalog
    tickets: Tickets
    events: Events
    storage: Storage
    _start: Callable[..., Qanvas]

    def new(self, *, model: str = "fake", tenant: str = "default", **given: Any) -> NewJob:
        """A valid job, as the API would submit it; ``given`` are inputs and, by their own names, settings."""
        entry = self.catalog.get(model, tenant)
        known = {"priority", "max_attempts", "timeout", "run_at", "expires_in"}
        settings = {name: given.pop(name) for name in known & given.keys()}
        if "prompt" in entry.input_schema["properties"]:
            given.setdefault("prompt", "a red apple")
        return NewJob(
            tenant=tenant,
            task=entry.task,
            model=entry.id,
            queue=entry.queue,
            input=self.catalog.check_input(entry, given, tenant=tenant),
            **settings,
        )

    def submit(self, new: Sequence[NewJob], *, tickets: bool = True) -> list[str]:
        """Their ids. ``tickets``: send them, as the API does."""
        ids = []
        for submitted in self.jobs.submit(new):
            assert isinstance(submitted, Submitted)
            ids.append(submitted.job.id)
            if tickets:
                self.tickets.send(submitted.job.queue)
        return ids

    def draw(self, **given: Any) -> str:
        return self.submit([self.new(**given)])[0]

    def start(self, before: str = "", **changes: Any) -> Qanvas:
        """A worker process, which first runs ``before``."""
        return self._start("worker", settings=self.settings.with_(**changes), before=before)

    def worker(self, before: str = "", **changes: Any) -> Qanvas:
        """A worker process that is ready."""
        process = self.start(before, **changes)
        process.wait_for_line("ready")
        return process

    def wait(self, job_id: str, seconds: float = 60.0) -> Job:
        """The job, once it has ended."""
        wait_until(lambda: self.jobs.get(job_id).is_terminal, seconds, what=f"{job_id} to end")
        return self.jobs.get(job_id)

    def wait_all(self, ids: Sequence[str], seconds: float = 120.0) -> list[Job]:
        def ended() -> bool:
            counts = self.jobs.counts()
            return not any(counts.get(status, 0) for status in ("scheduled", "queued", "running"))

        wait_until(ended, seconds, what=f"{len(ids)} jobs to end")
        return [self.jobs.get(job_id) for job_id in ids]

    def wait_for_step(self, job_id: str, step: int, seconds: float = 30.0) -> None:
        def reached() -> bool:
            progress = self.events.latest_progress([job_id]).get(job_id)
            return progress is not None and progress["step"] >= step

        wait_until(reached, seconds, what=f"{job_id} to reach step {step}")

    def pixels(self, job: Job, index: int = 0) -> NDArray[np.uint8]:
        assert job.status is Status.SUCCEEDED, job.error
        return np.asarray(self.picture(job, index).convert("RGB"))

    def picture(self, job: Job, index: int = 0) -> PIL.Image.Image:
        with self.storage.open(job.outputs[index].key) as file:
            return PIL.Image.open(io.BytesIO(file.read()))

    def attempts_run(self, job_id: str) -> list[int]:
        """The attempts that a worker announced, in order."""
        events = self.events.read(job_id)
        return [event.data["attempt"] for event in events if event.data.get("status") == "running"]


@contextmanager
def open_shop(settings: Settings, start: Callable[..., Qanvas]) -> Iterator[Shop]:
    """A shop over these settings; ``start`` is the fixture ``qanvas``, or does the same."""
    settings = settings.with_(lease_seconds=LEASE, upkeep_seconds=UPKEEP, retry_base_seconds=RETRY)
    database, tickets, events = Database(settings.database_url), Tickets(settings), Events(settings.redis_url)
    yield Shop(
        settings,
        database,
        JobStore(database),
        Leases(database, LEASE),
        Reaper(database),
        WorkerRegistry(database),
        Catalog(settings, database),
        tickets,
        events,
        open_storage(settings),
        start,
    )
    tickets.close()
    events.close()
    database.dispose()


def worker_context(
    shop: Shop,
    worker_id: str,
    *,
    leases: Leases | None = None,
    completion: CompletionHandler | None = None,
    **changes: Any,
) -> WorkerContext:
    """What a worker's services share, without a worker; ``changes`` are settings."""
    settings, leases = shop.settings.with_(**changes), leases or shop.leases
    results, checkpoints = Results(shop.storage), Checkpoints(shop.storage)
    scratch = Scratch(settings.data / "scratch", worker_id)
    me = Worker(id=worker_id, host="test", pid=0, device="cpu", slots=1, queues=(), models=())
    return WorkerContext(
        worker_id=worker_id,
        settings=settings,
        leases=leases,
        reaper=shop.reaper,
        registry=shop.registry,
        locks=NamedLocks(shop.database),
        jobs=shop.jobs,
        tickets=shop.tickets,
        events=shop.events,
        completion=completion or CompletionHandler(shop.database, shop.events, shop.tickets),
        results=results,
        checkpoints=checkpoints,
        leftovers=Leftovers(results, checkpoints),
        scratch=scratch,
        fitness=WriteProbe(shop.storage, scratch),
        keeper=LeaseRenewer(leases, shop.registry, settings.lease_seconds, lambda: me),
        write_turns=threading.Lock(),
    )


@pytest.fixture
def shop(settings: Settings, qanvas: Callable[..., Qanvas]) -> Iterator[Shop]:
    with open_shop(settings, qanvas) as opened:
        yield opened


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def open_all_day(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop with one worker for all tests of a module that leave it as it is, and look at their own jobs
    alone: starting a worker takes longer than most of them."""
    folder = tmp_path_factory.mktemp("shop")
    valkey: Valkey = request.getfixturevalue("valkey")
    started: list[Qanvas] = []

    def start(*arguments: str, settings: Settings, before: str = "") -> Qanvas:
        started.append(Qanvas(arguments, settings, folder / "worker.out", before))
        return started[-1]

    with (
        borrowed_database(request, folder) as url,
        open_shop(drill_settings(folder, url, valkey.url), start) as shop,
    ):
        try:
            shop.worker()
            yield shop
        finally:
            for process in started:
                process.clean()
