"""The systems that are measured, started as real processes: Qanvas, and plain Celery."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from bench import load, rivals
from bench.load import Sample
from cli.embedded import children
from shared.db.engine import Database
from shared.db.tables import jobs
from shared.ids import new_id
from shared.messaging.events import Events
from shared.settings import Settings
from shared.states import Status
from tests.servers import Qanvas, free_port, wait_until

JOB = {"model": "fake", "input": {"prompt": "a red apple", "seed": 7, "width": 8, "height": 8, "steps": 0}}
_ROOT = Path(__file__).parents[1]
_PATIENCE = 300.0  #: seconds until a system counts as stuck
WAITERS = 40  #: connections of clients that wait
#: connections of clients that submit: some, and as many as an API process works on at once
FEW, MANY = 16, 64


class Subject(ABC):
    """One system under measurement. ``submit…`` give a sample for each job, ``ended`` when each had ended."""

    name: str

    def __init__(self, name: str, beside: Sequence[int]) -> None:
        """``beside``: process ids of the servers that it works with."""
        self.name = name
        #: roots of all process trees that work for it now
        self.processes = list(beside)

    def cpu(self) -> float:
        """Seconds of CPU that all its processes have used, the servers it works with among them."""
        return sum(_cpu(psutil.Process(pid)) for pid in self.processes)

    @contextmanager
    def counted(self, pid: int) -> Iterator[None]:
        """Inside, this process and its children work for the subject."""
        self.processes.append(pid)
        yield
        self.processes.remove(pid)

    @abstractmethod
    @contextmanager
    def server(self) -> Iterator[None]:
        """What takes jobs runs inside."""

    @abstractmethod
    @contextmanager
    def worker(self) -> Iterator[None]:
        """What runs jobs runs inside."""

    @abstractmethod
    def submit(self, count: int, connections: int = FEW) -> Sequence[Sample]:
        """As fast as it goes, over so many connections with one request each at a time."""

    @abstractmethod
    def submit_at(self, rate: float, seconds: float) -> Sequence[Sample]:
        """At a steady rate, in jobs per second."""

    @abstractmethod
    def ended(self) -> dict[str, float]:
        """Id → seconds since 1970, for every job that has succeeded so far."""

    def wait_at(self, rate: float, seconds: float) -> Sequence[Sample]:
        """Clients that wait for their result, at a steady rate; none where that is not offered."""
        return []

    def announced(self, samples: Sequence[Sample]) -> list[float]:
        """When each job's end could be known, once all have ended."""
        return self.wait_for(samples)

    def wait_for(self, samples: Sequence[Sample]) -> list[float]:
        """When each of the jobs had ended, once all have."""
        wanted = [sample.id for sample in samples]
        deadline = time.monotonic() + _PATIENCE
        while not (found := self.ended()).keys() >= set(wanted):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: {len(set(wanted) - found.keys())} jobs have not ended")
            time.sleep(1.0)  # each look takes what is measured something of the machine
        return [found[job_id] for job_id in wanted]


class QanvasSubject(Subject):
    """``qanvas api`` and ``qanvas worker`` over a migrated database."""

    def __init__(
        self,
        name: str,
        folder: Path,
        database_url: str,
        redis_url: str,
        beside: Sequence[int],
        *,
        api_processes: int = 1,
        job: Mapping[str, Any] = JOB,
        device: str = "cpu",
        slots: int = rivals.THREADS,
        catalog: Path | None = None,
    ) -> None:
        super().__init__(name, beside)
        self.folder = folder
        settings = Settings.from_env(
            {
                "QANVAS_DATA": str(folder / "data"),
                "QANVAS_DATABASE_URL": database_url,
                "QANVAS_REDIS_URL": redis_url,
                "QANVAS_FAKE_MODELS": "1",
                "QANVAS_DEVICE": device,
                "QANVAS_SLOTS": str(slots),
                "QANVAS_PORT": str(free_port()),
                "QANVAS_LOG_LEVEL": "WARNING",
                **({} if catalog is None else {"QANVAS_CATALOG": str(catalog)}),
            }
        )
        self.settings = settings.with_(api_processes=api_processes)
        self.database = Database(self.settings.database_url)
        self.database.migrate()
        self.events = Events(redis_url)
        self._body = json.dumps(job).encode()
        self.request = load.post("/v1/jobs", self._body)

    @contextmanager
    def server(self) -> Iterator[None]:
        process = Qanvas(["api"], self.settings, self.folder / "api.log")
        try:
            wait_until(lambda: answers(self.settings.port, "/readyz"), 180, what=f"the API\n{process.said()}")
            with self.counted(process.pid):
                yield
            process.stop()
        finally:
            process.clean()

    @contextmanager
    def worker(self) -> Iterator[None]:
        process = Qanvas(["worker"], self.settings, self.folder / "worker.log")
        try:
            process.wait_for_line("ready", 60)
            with self.counted(process.pid):
                yield
            process.stop()
        finally:
            process.clean()

    def submit(self, count: int, connections: int = FEW) -> Sequence[Sample]:
        return load.expect(
            load.as_fast_as_possible(self.settings.port, self.request, count, connections), 202
        )

    def submit_at(self, rate: float, seconds: float) -> Sequence[Sample]:
        return load.expect(load.at_rate(self.settings.port, self.request, rate, seconds), 202)

    def wait_at(self, rate: float, seconds: float) -> Sequence[Sample]:
        request = load.post("/v1/jobs", self._body, "Prefer: wait=30")
        return load.expect(load.at_rate(self.settings.port, request, rate, seconds, WAITERS), 200)

    def ended(self) -> dict[str, float]:
        query = sa.select(jobs.c.id, jobs.c.finished_at).where(jobs.c.status == Status.SUCCEEDED)
        with self.database.read() as connection:
            return {row.id: row.finished_at for row in connection.execute(query)}

    def announced(self, samples: Sequence[Sample]) -> list[float]:
        """The time of its last event, to the millisecond: it follows the commit."""
        self.wait_for(samples)
        time.sleep(0.5)  # the last events are on their way
        last = [self.events.read(sample.id)[-1] for sample in samples]
        if odd := [event for event in last if event.type != "done"]:
            raise RuntimeError(f"{len(odd)} jobs were not announced as done: {odd[0]}")
        return [int(event.id.partition("-")[0]) / 1000 for event in last]


class CelerySubject(Subject):
    """Plain Celery behind a route of Flask, or fed by its own producer when ``direct``."""

    def __init__(
        self, name: str, folder: Path, redis_url: str, beside: Sequence[int], *, direct: bool = False
    ) -> None:
        super().__init__(name, beside)
        self.folder, self.redis_url, self.direct = folder, redis_url, direct
        folder.mkdir(parents=True)
        self.port = free_port()
        self._draw = rivals.make_celery(redis_url, folder).tasks["draw"]
        self._body = json.dumps(JOB).encode()

    @contextmanager
    def server(self) -> Iterator[None]:
        process = self._start("api", str(self.port))
        try:
            wait_until(lambda: answers(self.port, "/"), 60, what=f"Flask, see {self.folder}")
            with self.counted(process.pid):
                yield
        finally:
            children.stop([process], grace=10)

    @contextmanager
    def worker(self) -> Iterator[None]:
        process = self._start("worker")
        try:
            with self.counted(process.pid):
                yield
        finally:
            children.stop([process], grace=10)

    def noop(self, count: int, connections: int = FEW) -> Sequence[Sample]:
        """Requests to a route that does nothing."""
        request = load.post("/noop", self._body)
        return load.expect(load.as_fast_as_possible(self.port, request, count, connections), 200)

    def submit(self, count: int, connections: int = FEW) -> Sequence[Sample]:
        if self.direct:
            return [self._send(time.time()) for _ in range(count)]
        request = load.post("/draw", self._body)
        return load.expect(load.as_fast_as_possible(self.port, request, count, connections), 202)

    def submit_at(self, rate: float, seconds: float) -> Sequence[Sample]:
        if self.direct:
            return list(self._paced(rate, seconds))
        request = load.post("/draw", self._body)
        return load.expect(load.at_rate(self.port, request, rate, seconds), 202)

    def ended(self) -> dict[str, float]:
        log = self.folder / rivals.DONE
        lines = log.read_text().splitlines() if log.exists() else []
        return {job_id: float(seconds) for job_id, seconds in (line.split() for line in lines)}

    def _paced(self, rate: float, seconds: float) -> Iterator[Sample]:
        start = time.time() + 0.05
        for number in range(round(rate * seconds)):
            due = start + number / rate
            time.sleep(max(0.0, due - time.time()))
            yield self._send(due)

    def _send(self, due: float) -> Sample:
        job_id, given = new_id("job"), JOB["input"]
        self._draw.apply_async((job_id, given["prompt"], given["seed"]))  # type: ignore[index]
        return Sample(due, time.time(), 202, b'{"id": "%s"}' % job_id.encode())

    def _start(self, role: str, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "bench.rivals", role, self.redis_url, str(self.folder), *more]
        return children.start(command, log=self.folder / f"{role}.txt", cwd=_ROOT)


def _cpu(process: psutil.Process) -> float:
    """Seconds, of the process and its children, those that ended included."""
    times = process.cpu_times()
    own = times.user + times.system + times.children_user + times.children_system
    return float(own) + sum(_cpu(child) for child in process.children())


def answers(port: int, path: str) -> bool:
    """Whether a server answers there, with an error or without."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code != 503
    except OSError:
        return False
