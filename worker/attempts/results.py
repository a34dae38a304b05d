"""From what an engine gave to an ending: files are encoded and stored before any row names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shared.catalog import families
from shared.catalog.entries.model import Model, Stored
from shared.catalog.entries.serialization import to_entry
from shared.errors import JobError
from shared.jobs.entities import Job, NewModel, NewOutput, Succeeded
from shared.json_text import json_bytes
from shared.storage.base import Storage, StoredObject
from worker.attempts.checkpoints import upload
from worker.engines.contract.engine import Result, TrainedModel
from worker.health.watchdog import Busy
from worker.media.encoders import encoder_of

#: bytes of JSON that a job's ``result`` may have: everybody who looks at the job gets all of it
MOST_RESULT = 4 << 20


class Results:
    """Everything an attempt stores lies below folders of its own, so that it can be taken back."""

    def __init__(self, storage: Storage, busy: Busy | None = None) -> None:
        """The watchdog sees in ``busy`` what is encoded."""
        self._storage = storage
        self._busy = busy or Busy()

    def store(self, job: Job, result: Result, load_seconds: float) -> Succeeded:
        """Store the outputs and the trained model. Raises Unavailable, and JobError for a result that is too
        large for a row."""
        if (size := json_bytes(result.value)) > MOST_RESULT:
            raise JobError(
                f"its result takes {size} bytes as JSON, and at most {MOST_RESULT} are kept; ask for less of "
                "it, or give it as a file among the outputs",
                type="invalid-input",
            )
        return Succeeded(
            outputs=self._outputs(job, result.outputs),
            result=result.value,
            load_seconds=round(load_seconds, 3),
            model=None if result.model is None else self._model(job, result.model),
        )

    def take_back(self, job_id: str, attempt: int) -> None:
        """Remove what an attempt stored that came to nothing. Raises Unavailable."""
        self._storage.delete_prefix(_outputs_of(job_id, attempt))
        self._storage.delete_prefix(_model_of(job_id, attempt))

    def _outputs(self, job: Job, outputs: Sequence[object]) -> tuple[NewOutput, ...]:
        prefix = _outputs_of(job.id, job.attempt)
        return tuple(self._output(job, index, output, prefix) for index, output in enumerate(outputs))

    def _output(self, job: Job, index: int, output: object, prefix: str) -> NewOutput:
        origin = {"model": job.model, "task": job.task, "job": job.id, "software": "Qanvas"}
        with self._busy.at("encoding an output", job.id, blames=True):
            encoded = encoder_of(output).encode(output, origin)
        stored = self._write(f"{prefix}/{index}{encoded.suffix}", encoded.content)
        return NewOutput(
            index=index,
            media_type=encoded.media_type,
            bytes=stored.bytes,
            sha256=stored.sha256,
            key=stored.key,
            facts=dict(encoded.facts),
        )

    def _write(self, key: str, content: bytes | Path) -> StoredObject:
        if isinstance(content, bytes):
            return self._storage.write(key, content)
        with content.open("rb") as file:
            return self._storage.write(key, file)

    def _model(self, job: Job, trained: TrainedModel) -> NewModel:
        prefix = _model_of(job.id, job.attempt)
        upload(self._storage, trained.folder, prefix)
        name = str(job.input["name"])
        model = Model(
            id=name,
            task=trained.task,
            engine=trained.engine,
            source=Stored(prefix),
            input_schema=trained.input_schema,
            also=trained.also,
            output=families.tasks()[trained.task].output,
            description=trained.description,
        )
        return NewModel(id=name, entry=to_entry(model))


def _outputs_of(job_id: str, attempt: int) -> str:
    return f"outputs/{job_id}/{attempt}"


def _model_of(job_id: str, attempt: int) -> str:
    # the last part alone names the folder on the machines that fetch it
    return f"models/{job_id}-{attempt}"
