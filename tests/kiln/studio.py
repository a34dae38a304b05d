"""A kiln with one engine, where several jobs can be made to begin at once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from shared.catalog.entries.model import Builtin, Model
from worker.engines.contract.engine import Context, Device, Engine, Progress, Result, Work
from worker.kiln.kiln import Kiln
from worker.kiln.kiln_job import KilnJob, Order, Outcome


class Quiet:
    """Implements ``Watcher``."""

    def begun(self) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def token(self, text: str) -> None: ...


class _Gate:
    """An engine whose job holds the device until the gate is open."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def load(self, model: Model, folder: Path | None, device: Device) -> None: ...

    def nbytes(self, loaded: None) -> int:
        return 0

    def run(self, loaded: None, work: Work, context: Context) -> Result:
        assert self.open.wait(60)
        return Result()


class Studio:
    def __init__(
        self,
        folder: Path,
        engine: Engine,
        *,
        device: Device | None = None,
        budget: int = 1 << 40,
        **kiln: Any,
    ) -> None:
        """On the CPU where no ``device`` is given."""
        self.kiln = Kiln(device or Device(), budget, **kiln)
        self.engine = engine
        self._folder = folder
        self._numbers = itertools.count(1)

    def submit(
        self,
        given: Mapping[str, Any],
        *,
        model: str = "m",
        owner: str | None = None,
        engine: Engine | None = None,
        folder: Path | None = None,
        timeout: float | None = None,
    ) -> KilnJob:
        job_id = f"job-{next(self._numbers)}"
        entry = Model(
            id=model,
            owner=owner,
            task="t",
            engine="e",
            source=Builtin(),
            input_schema={},
            output="image/png",
        )
        return self.kiln.submit(
            Order(
                work=Work(job_id=job_id, task="t", input=given),
                model=entry,
                model_key=entry.known_as,
                folder=folder,
                engine=engine or self.engine,
                scratch=self._folder / job_id,
                apart="exact" if given.get("exact") else "",
                timeout=timeout,
            ),
            Quiet(),
        )

    def together(self, jobs: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """The outcomes of jobs that are all there before the first one begins."""
        gate = _Gate()
        self.submit({}, model="gate", engine=gate)
        kiln_jobs = [self.submit(given) for given in jobs]
        gate.open.set()
        return [kiln_job.wait() for kiln_job in kiln_jobs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kiln.close(timeout=10)
