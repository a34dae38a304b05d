"""The systems of the drill behind one interface: submit, start a worker, see what began and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import sqlalchemy as sa

from bench import load
from bench.drills import rivals, work
from bench.subjects import FEW, QanvasSubject
from cli.embedded import children
from shared.db.tables import jobs
from shared.jobs.store import JobStore
from shared.messaging.events import Event
from shared.states import Status
from tests.servers import Qanvas

_ROOT = Path(__file__).parents[2]
_STEP = 0.1  #: seconds for each step of a job of Qanvas


class System(ABC):
    """``settings`` and ``default`` are said in the table."""

    name: str
    settings: str
    default: str

    @abstractmethod
    @contextmanager
    def server(self) -> Iterator[None]:
        """What takes jobs runs inside, where there is such a thing."""

    @abstractmethod
    def submit(self, count: int, seconds: float) -> Sequence[str]:
        """The ids of new jobs that work for so long."""

    @abstractmethod
    def start(self, worker: str) -> None:
        """A worker of this name, which runs one job at a time."""

    @abstractmethod
    def kill(self, worker: str) -> None:
        """SIGKILL to the worker and all that it started, as when its machine goes."""

    @abstractmethod
    def running(self, worker: str) -> Sequence[str]:
        """Jobs that this worker has begun and not ended."""

    @abstractmethod
    def starts(self) -> Counter[str]:
        """How often each job was begun so far."""

    @abstractmethod
    def ends(self) -> dict[str, list[float]]:
        """When each job did its work to the end, in seconds since 1970; twice is once too often."""

    @abstractmethod
    def held(self) -> int:
        """Jobs that the system still knows and has not finished."""

    @abstractmethod
    def stop(self) -> None:
        """End what still runs."""


class RivalSystem(System):
    """A worker is a process of ``bench.drills.worker``."""

    def __init__(self, rival: type[rivals.Rival], redis_url: str, folder: Path) -> None:
        folder.mkdir()
        self.name, self.settings, self.default = rival.name, rival.settings, rival.default
        self._rival, self._url, self._folder = rival(redis_url, folder), redis_url, folder
        self._workers: dict[str, subprocess.Popen[bytes]] = {}

    @contextmanager
    def server(self) -> Iterator[None]:
        yield

    def submit(self, count: int, seconds: float) -> Sequence[str]:
        ids = [f"job{number:03}" for number in range(count)]
        for job in ids:
            self._rival.submit(job, seconds)
        return ids

    def start(self, worker: str) -> None:
        command = [sys.executable, "-m", "bench.drills.worker", self.name, self._url, str(self._folder)]
        self._workers[worker] = children.start(
            command,
            log=self._folder / f"{worker}.txt",
            cwd=_ROOT,
            env=os.environ | {work.WORKER: worker},
        )

    def kill(self, worker: str) -> None:
        process = self._workers.pop(worker)
        _kill_tree(process.pid)
        process.wait()

    def running(self, worker: str) -> Sequence[str]:
        lines = [line for line in work.read(self._folder) if line.worker == worker]
        ended = {line.job for line in lines if line.what == "end"}
        return [line.job for line in lines if line.what == "start" and line.job not in ended]

    def starts(self) -> Counter[str]:
        return Counter(line.job for line in work.read(self._folder) if line.what == "start")

    def ends(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for line in work.read(self._folder):
            if line.what == "end":
                found.setdefault(line.job, []).append(line.at)
        return found

    def held(self) -> int:
        return self._rival.held()

    def stop(self) -> None:
        for worker in list(self._workers):
            self.kill(worker)


class QanvasSystem(System):
    """``qanvas api`` and ``qanvas worker`` on SQLite; jobs are those of the model ``fake``."""

    name = "Qanvas"
    settings = f"`QANVAS_LEASE_SECONDS={rivals.NOTICE}`"
    default = "30 s"

    def __init__(self, redis_url: str, folder: Path) -> None:
        self._subject = QanvasSubject(self.name, folder, f"sqlite:///{folder}/qanvas.db", redis_url, [])
        self._settings = self._subject.settings.with_(lease_seconds=rivals.NOTICE, slots=1)
        self._store = JobStore(self._subject.database)
        self._folder = folder
        self._ids: Sequence[str] = ()
        self._workers: dict[str, Qanvas] = {}

    @contextmanager
    def server(self) -> Iterator[None]:
        with self._subject.server():
            yield

    def submit(self, count: int, seconds: float) -> Sequence[str]:
        given = {"prompt": "a red apple", "width": 8, "height": 8}
        steps = {"steps": round(seconds / _STEP), "step_seconds": _STEP}
        request = load.post("/v1/jobs", json.dumps({"model": "fake", "input": {**given, **steps}}).encode())
        samples = load.as_fast_as_possible(self._settings.port, request, count, FEW)
        self._ids = [sample.id for sample in load.expect(samples, 202)]
        return self._ids

    def start(self, worker: str) -> None:
        self._workers[worker] = Qanvas(["worker"], self._settings, self._folder / f"{worker}.log")

    def kill(self, worker: str) -> None:
        process = self._workers.pop(worker)
        _kill_tree(process.pid)
        process.process.wait()

    def running(self, worker: str) -> Sequence[str]:
        ready = [
            line for line in self._workers[worker].output().splitlines() if line.startswith("ready worker")
        ]
        if not ready:
            return []
        query = sa.select(jobs.c.id).where(
            jobs.c.status == Status.RUNNING, jobs.c.worker == ready[0].split()[2]
        )
        with self._subject.database.read() as connection:
            return list(connection.execute(query).scalars())

    def starts(self) -> Counter[str]:
        return Counter(
            job for job in self._ids for event in self._events(job) if event.data.get("status") == "running"
        )

    def ends(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for job in self._ids:
            for event in self._events(job):
                if event.type == "done" and event.data["status"] == Status.SUCCEEDED:
                    found.setdefault(job, []).append(int(event.id.partition("-")[0]) / 1000)
        return found

    def held(self) -> int:
        """What was given up is known as well: it can be retried."""
        return sum(count for status, count in self._store.counts().items() if status != Status.SUCCEEDED)

    def stop(self) -> None:
        for process in self._workers.values():
            process.clean()

    def _events(self, job: str) -> Sequence[Event]:
        return self._subject.events.read(job)


def _kill_tree(pid: int) -> None:
    parent = psutil.Process(pid)
    family = [parent, *parent.children(recursive=True)]
    for process in family:
        process.suspend()  # none may act on the death of another
    for process in family:
        process.kill()
