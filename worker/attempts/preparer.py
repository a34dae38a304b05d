"""From a claimed job to an order that the kiln can run: everything it reads is brought to this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from shared.catalog.catalog import Catalog
from shared.catalog.entries.model import Hub, Model
from shared.catalog.model_files import materialise
from shared.errors import JobError, ModelUnavailable, NotFound
from shared.files.media_types import decode_data_uri
from shared.files.store import FileStore
from shared.ids import is_id
from shared.jobs.entities import TRAINING_QUEUE, Job, no_such_output
from shared.jobs.references import is_reference
from shared.jobs.store import JobStore
from shared.outward import Outward, is_url
from shared.schema.marks import changed
from shared.settings import Settings
from shared.storage.base import Storage
from worker.attempts.checkpoints import Checkpoints
from worker.engines.contract.engine import Trainer, Work
from worker.engines.registry import engine_named
from worker.health.watchdog import Busy
from worker.inputs.datasets import read_dataset
from worker.inputs.model_fetcher import ModelFetcher, Report
from worker.inputs.pictures import open_picture, with_pictures
from worker.inputs.reading import JobReader, Wait
from worker.inputs.url_fetcher import UrlFetcher, file_name
from worker.kiln.kiln_job import Order
from worker.media.sandbox import Sandbox

#: brings the files of a model, or of something that belongs to one
Fetch = Callable[[Model], Path | None]
#: brings the file that a URL leads to, of a kind, for an input of that name
Bring = Callable[[str, str, str], Path | None]


class Preparer:
    """Reads the catalog, the storage and the rows of files; changes nothing."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        storage: Storage,
        files: FileStore,
        jobs: JobStore,
        sandbox: Sandbox | None = None,
        busy: Busy | None = None,
    ) -> None:
        """``sandbox``: where what users send is decoded; one of its own where none is given. The watchdog
        sees in ``busy`` what is fetched."""
        self._settings = settings
        self._catalog = catalog
        self._storage = storage
        self._files = files
        self._jobs = jobs
        self._sandbox = sandbox or Sandbox()
        self._checkpoints = Checkpoints(storage)
        self._incoming = UrlFetcher(
            Outward(allow_private=settings.input_allow_private),
            most_bytes=settings.max_upload_bytes,
            seconds=settings.fetch_seconds,
        )
        self._fetches = ModelFetcher(
            lambda model, report: materialise(model, settings, storage, report), busy
        )

    def order(self, job: Job, scratch: Path, report: Report, wait: Wait = Future.result) -> Order:
        """What the kiln shall run; ``report`` hears how far it is, and ``wait`` may give up waiting.

        Raises JobError (ModelUnavailable for what concerns the model), InvalidInput, Stopped, MissingExtra
        and Unavailable."""
        try:
            model = self._catalog.get(job.model, job.tenant)
        except NotFound:
            raise ModelUnavailable(
                f"model {job.model} is not in this worker's catalog", retryable=False
            ) from None
        if job.task not in model.schemas:
            raise ModelUnavailable(f"model {job.model} does no {job.task} any more", retryable=False)

        def fetch(part: Model) -> Path | None:
            return self._fetches.folder(f"{part.id}|{part.source!r}", part, report, wait)

        def bring(url: str, kind: str, name: str) -> Path | None:
            return wait(self._incoming.begin(url, kind, name, scratch / "inputs", report))

        model = self._equipped(model.doing(job.task), fetch)
        engine = engine_named(model.engine)
        resume = self._checkpoints.fetch(job, scratch / "resume") if job.attempt > 1 else None
        reader = JobReader(self._sandbox, scratch / "decoded", wait=wait, report=report, timeout=job.timeout)
        given = self._input(job, model, scratch / "inputs", fetch, bring, reader)
        if isinstance(engine, Trainer):
            path = Path(given["dataset"])
            given["dataset"] = read_dataset(engine.wants(given, resume), path, reader)
        return Order(
            work=Work(job_id=job.id, task=job.task, input=given, attempt=job.attempt),
            model=model,
            model_key=f"{model.id}|{model.source!r}|{model.controlnet!r}",
            folder=fetch(model),
            engine=engine,
            scratch=scratch,
            resume=resume,
            background=job.queue == TRAINING_QUEUE,
            apart=_apart(job),
            timeout=reader.left,
        )

    def _equipped(self, model: Model, fetch: Fetch) -> Model:
        """The model, its options naming folders besides: where what was measured of it is kept, and where
        its ControlNet lies if it has one."""
        options = {"cache": str(self._settings.data / "cache"), **model.options}
        if model.controlnet is not None:
            options["controlnet"] = str(fetch(model.part("ControlNet", model.controlnet)))
        return replace(model, options=options)

    def _input(
        self, job: Job, model: Model, folder: Path, fetch: Fetch, bring: Bring, reader: JobReader
    ) -> dict[str, Any]:
        """The input as the engine reads it: files, adapters and models are local paths, pictures decoded."""
        local = self._local_input(job, model, folder, bring)
        given = with_pictures(local, model.input_schema, partial(open_picture, reader))
        if loras := given.get("loras"):
            given["loras"] = [{**lora, "path": str(_lora(model, lora["name"], fetch))} for lora in loras]
        if (base := given.get("base_model")) is not None:
            folder_of_base = fetch(self._catalog.base(base, job.tenant, job.task))
            given["base_model"] = {"name": base, "path": str(folder_of_base)}
        return given

    def _local_input(self, job: Job, model: Model, folder: Path, bring: Bring) -> dict[str, Any]:
        """The input with local paths instead of references to files."""

        def local(kind: str, reference: Any, pointer: str) -> str | None:
            name = pointer[1:]
            if reference is None:
                return None
            if isinstance(reference, str) and is_url(reference):
                return str(bring(reference, kind, name))
            return str(self._local_file(job, name, reference, folder))

        given: dict[str, Any] = changed(model.input_schema, job.input, "x-file", local)
        return given

    def _local_file(self, job: Job, name: str, reference: Any, folder: Path) -> Path:
        if is_reference(reference):
            reference = self._output_of(job, name, reference)
        if reference.startswith("data:"):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / file_name(name)
            path.write_bytes(decode_data_uri(reference, f"/input/{name}")[1])
            return path
        try:
            key, suffix = self._stored(job, reference)
            local = self._storage.local_path(key)
            if local is not None and local.suffix == suffix:
                return local
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / file_name(name, suffix)
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

    def _output_of(self, job: Job, name: str, reference: Mapping[str, Any]) -> str:
        """The id of the output that another job has made by now. Raises JobError."""
        try:
            made = self._jobs.get(reference["job"], tenant=job.tenant)
        except NotFound as error:
            raise JobError(f"{name}: {error}; it was deleted", type="invalid-input") from None
        if (index := int(reference["output"])) >= len(made.outputs):
            raise JobError(f"{name}: {no_such_output(made, index)}", type="invalid-input")
        return made.outputs[index].id

    def _stored(self, job: Job, reference: str) -> tuple[str, str]:
        """Where a file lies in the storage, and what its name ends in."""
        if is_id("file", reference):
            file = self._files.get(reference, tenant=job.tenant)
            return file.key, PurePosixPath(file.filename).suffix
        output = self._jobs.output(reference, tenant=job.tenant)
        return output.key, PurePosixPath(output.key).suffix


def _lora(model: Model, name: str, fetch: Fetch) -> Path:
    """The file of an adapter's weights."""
    if (source := model.loras.get(name)) is None:
        raise ModelUnavailable(f"model {model.id} has no LoRA {name} any more", retryable=False)
    folder = fetch(model.part(f"LoRA {name}", source)) or Path()
    named = source.file if isinstance(source, Hub) else ""
    files = [folder / named] if named else sorted(folder.rglob("*.safetensors"))
    if len(files) != 1:
        raise ModelUnavailable(
            f"model {model.id}: LoRA {name} has {len(files)} files of weights in {folder}; leave one there, "
            "or name it as `file` in the catalog",
            retryable=False,
        )
    return files[0]


def _apart(job: Job) -> str:
    """Why it shares no call with others; empty where it may.

    A job whose last attempt ended badly may be what kills workers: apart, it takes no other with it."""
    if job.input.get("exact"):
        return "exact"
    return "its last attempt ended badly" if job.attempts > 1 else ""
