"""Where the time of a job goes: each step of its way alone, over the real parts, without HTTP and Celery."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.subjects import JOB
from shared.catalog.builtin import fakes
from shared.db.engine import Database
from shared.jobs.entities import Finish, NewJob, NewOutput, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.store import JobStore
from shared.messaging.events import Events
from shared.schema.input_check import InputCheck
from shared.storage.files import FileStorage
from tests.servers import Postgres, Valkey
from worker.engines.contract.engine import Image
from worker.media.png import encode_png

TOGETHER = 16  #: jobs that share a commit where several wait, as with 16 connections

_TIMES = 200


def cost_of_steps(folder: Path, valkey: Valkey, postgres: Postgres) -> dict[str, dict[str, float]]:
    """Database → step → milliseconds for each job, medians."""
    urls = {"SQLite": f"sqlite:///{folder / 'steps.db'}", "PostgreSQL": postgres.create()}
    return {name: _steps(url, folder / f"storage-{name}", valkey.url) for name, url in urls.items()}


def _steps(url: str, folder: Path, redis_url: str) -> dict[str, float]:
    database = Database(url)
    database.migrate()
    store, leases, storage = JobStore(database), Leases(database, 30.0), FileStorage(folder)
    events = Events(redis_url)
    check = InputCheck(next(iter(fakes())).input_schema)
    new = NewJob(
        tenant="default",
        task="text-to-image",
        model="fake",
        queue="default",
        input=check.check(JOB["input"], ""),
    )
    image = Image(pixels=np.zeros((8, 8, 3), np.uint8), metadata={"prompt": "a red apple", "seed": "7"})
    png = encode_png(image, {"job": "job"})
    numbers = iter(range(10**9))
    found = {
        "check the input": _median(lambda: check.check(JOB["input"], "")),
        "insert and commit, alone": _median(lambda: store.submit([new])),
        f"insert and commit, {TOGETHER} together": _median(lambda: store.submit([new] * TOGETHER)) / TOGETHER,
    }
    claimed = []
    found["claim, alone"] = _median(lambda: claimed.extend(leases.claim("wrk_1", "default")))
    found["claim, 8 together"] = (
        _median(lambda: claimed.extend(leases.claim("wrk_1", "default", limit=8))) / 8
    )
    found["encode the PNG"] = _median(lambda: encode_png(image, {"job": "job"}))
    found["store it and wait for the disk"] = _median(
        lambda: storage.write(f"outputs/job_{next(numbers)}/1/0.png", png)
    )
    ends = [Finish(job.id, job.attempt, _succeeded(png)) for job in claimed]
    found["finish and commit, alone"] = _median(lambda: leases.finish([ends.pop()]))
    found["finish and commit, 8 together"] = (
        _median(lambda: leases.finish([ends.pop() for _ in range(8)]), _TIMES // 4) / 8
    )
    found["read it back"] = _median(lambda: store.get(claimed[0].id))
    found["publish its five events"] = _published(events, [job.id for job in claimed])
    database.dispose()
    return found


def _succeeded(png: bytes) -> Succeeded:
    output = NewOutput(index=0, media_type="image/png", bytes=len(png), sha256="0" * 64, key="k")
    return Succeeded(outputs=(output,), load_seconds=0.0)


def _published(events: Events, job_ids: list[str]) -> float:
    """Milliseconds for each job until all its events are in Redis, with the sender's batching."""
    start = time.perf_counter()
    for job_id in job_ids:
        for number in range(4):
            events.publish(job_id, "progress", {"stage": "draw", "step": number, "total": 4})
        events.publish(job_id, "done", {"status": "succeeded"})
    events.close()
    return 1000 * (time.perf_counter() - start) / len(job_ids)


def _median(act: Callable[[], object], times: int = _TIMES) -> float:
    """Milliseconds."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)
