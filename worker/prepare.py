"""From a claimed job to an order that the kiln can run: everything it reads is brought to this machine."""

from __future__ import annotations

import shutil
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.request import urlopen

from shared.catalog.catalog import Catalog
from shared.catalog.fetch import materialise
from shared.catalog.models import Model
from shared.errors import JobError, ModelUnavailable, NotFound
from shared.ids import is_id
from shared.jobs.files import FileStore
from shared.jobs.records import Job
from shared.jobs.store import JobStore
from shared.settings import Settings
from shared.storage.base import Storage
from worker.checkpoints import Checkpoints
from worker.engines.base import Work
from worker.engines.registry import engine_named
from worker.fetching import Fetches, Report, Wait
from worker.kiln.firing import Order

#: the queue whose jobs run beside others instead of before those that come later
TRAINING = "training"


class Preparer:
    """Reads the catalog, the storage and the rows of files; changes nothing."""

    def __init__(
        self, settings: Settings, catalog: Catalog, storage: Storage, files: FileStore, jobs: JobStore
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._storage = storage
        self._files = files
        self._jobs = jobs
        self._checkpoints = Checkpoints(storage)
        self._fetches = Fetches(lambda model, report: materialise(model, settings, storage, report))

    def order(self, job: Job, scratch: Path, report: Report, wait: Wait = Future.result) -> Order:
        """What the kiln shall run; ``report`` hears of downloads, and ``wait`` may give up waiting for them.

        Raises JobError (ModelUnavailable for what concerns the model), MissingExtra and Unavailable."""
        try:
            model = self._catalog.get(job.model, job.tenant)
        except NotFound:
            raise ModelUnavailable(
                f"model {job.model} is not in this worker's catalog", retryable=False
            ) from None
        key = f"{model.id}|{model.source!r}"
        return Order(
            work=Work(
                job_id=job.id,
                task=job.task,
                input=self._local_input(job, model, scratch / "inputs"),
                attempt=job.attempt,
            ),
            model=model,
            model_key=key,
            folder=self._fetches.folder(key, model, report, wait),
            engine=engine_named(model.engine),
            scratch=scratch,
            resume=self._checkpoints.fetch(job.id, scratch / "resume") if job.attempt > 1 else None,
            background=job.queue == TRAINING,
            timeout=job.timeout,
        )

    def _local_input(self, job: Job, model: Model, folder: Path) -> dict[str, Any]:
        """The input with local paths instead of references to files."""
        properties = model.input_schema.get("properties", {})
        given = dict(job.input)
        for name, rule in properties.items():
            if "x-file" in rule and isinstance(given.get(name), str):
                given[name] = str(self._local_file(job, name, given[name], folder))
        return given

    def _local_file(self, job: Job, name: str, reference: str, folder: Path) -> Path:
        if reference.startswith("data:"):
            folder.mkdir(parents=True, exist_ok=True)
            with urlopen(reference) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
            return folder / name
        try:
            key, suffix = self._stored(job, reference)
            local = self._storage.local_path(key)
            if local is not None and local.suffix == suffix:
                return local
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}{suffix}"
            if local is not None:
                path.symlink_to(local)
                return path
            with self._storage.open(key) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
            return path
        except NotFound:
            raise JobError(
                f"{name}: {reference} was deleted before the job ran; upload it again", type="invalid-input"
            ) from None

    def _stored(self, job: Job, reference: str) -> tuple[str, str]:
        """Where a file lies in the storage, and what its name ends in."""
        if is_id("file", reference):
            file = self._files.get(reference, tenant=job.tenant)
            return file.key, PurePosixPath(file.filename).suffix
        output = self._jobs.output(reference, tenant=job.tenant)
        return output.key, PurePosixPath(output.key).suffix
