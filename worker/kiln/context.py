"""The job's side of the kiln: what its thread runs, and its line to the engine thread."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.errors import OutOfMemory
from worker.engines.contract.engine import Call, Device, Image, Progress, Result, Stopped, Value
from worker.engines.memory import memory_errors
from worker.health.disk_full import no_room
from worker.kiln.cpu_threads import use_one_core
from worker.kiln.kiln_job import Checkpoint, KilnJob, Outcome, Preview

log = logging.getLogger(__name__)


class Body:
    """What a job's thread runs: the engine, and nothing it raises escapes."""

    def __init__(self, kiln_job: KilnJob, loaded: object, device: Device) -> None:
        self._kiln_job, self._loaded, self._device = kiln_job, loaded, device

    def __call__(self) -> None:
        kiln_job = self._kiln_job
        use_one_core()
        try:
            result = self._run()
            kiln_job.computed = Outcome(result=result, load_seconds=kiln_job.load_seconds)
        except BaseException as error:  # noqa: BLE001 - whoever ordered the job gets it
            kiln_job.computed = Outcome.of_error(error, kiln_job.load_seconds)

    def _run(self) -> Result:
        """Run the engine; once more, from the start, where it cannot read the checkpoint it was given."""
        order = self._kiln_job.order
        context = JobContext(self._kiln_job, self._device, order.resume)
        try:
            return order.engine.run(self._loaded, order.work, context)
        except OutOfMemory:
            raise
        except Exception as error:
            if not context.reads_checkpoint:
                raise
            said = f"{type(error).__name__}: {error}"
        # outside of the except clause: the error's traceback would keep what was computed so far
        log.warning("the checkpoint of %s cannot be read, it starts anew: %s", order.work.job_id, said)
        return order.engine.run(self._loaded, order.work, JobContext(self._kiln_job, self._device, None))


class _Work:
    """Implements ``Point``: whatever a job wants to have computed on the engine thread."""

    name = "work"

    def compute(self, calls: Sequence[Call]) -> list[Any]:
        work, doing = calls[0].arguments
        with memory_errors(doing):
            return [work()]

    def agree(self, one: Any, other: Any) -> bool:
        return False  # nobody asks: calls without a key are computed alone


_WORK = _Work()


class JobContext:
    """What an engine sees of all this; implements ``worker.engines.contract.engine.Context``."""

    def __init__(self, kiln_job: KilnJob, device: Device, resume: Path | None) -> None:
        self._kiln_job = kiln_job
        self._device = device
        self._resume = resume
        #: the engine has asked for the checkpoint, and has not come to a boundary since
        self.reads_checkpoint = False
        self._shared = False

    @property
    def device(self) -> Device:
        return self._device

    @property
    def scratch(self) -> Path:
        folder = self._kiln_job.order.scratch / "work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def resume(self) -> Path | None:
        self.reads_checkpoint = self._resume is not None
        return self._resume

    def boundary(self, progress: Progress | None = None) -> None:
        if progress is not None:
            self._kiln_job.watcher.progress(progress)
        if not self._shared:  # a call since the last boundary was one already
            self._hand_back()
        self._shared = False
        self._go_on()

    def share(self, call: Call) -> Any:
        kiln_job = self._kiln_job
        kiln_job.call = replace(call, key=None, apart=kiln_job.order.apart) if kiln_job.order.apart else call
        self._hand_back()
        self._shared = True
        answer, kiln_job.call, kiln_job.answer = kiln_job.answer, None, None
        self._go_on()
        assert answer is not None
        if answer.error is not None:
            raise answer.error
        return answer.value

    def compute(self, work: Callable[[], Value], doing: str = "computing") -> Value:
        value: Value = self.share(Call(point=_WORK, arguments=(work, doing), repeatable=False))
        return value

    def _hand_back(self) -> None:
        self.reads_checkpoint = False
        assert self._kiln_job.thread is not None
        self._kiln_job.thread.hand_back()

    def _go_on(self) -> None:
        if (reason := self._kiln_job.shall_stop) is not None:
            raise Stopped(reason)

    def token(self, text: str) -> None:
        self._kiln_job.watcher.token(text)

    def preview(self, image: Image) -> None:
        self._kiln_job.tell(Preview(image))

    def checkpoint(self, write: Callable[[Path], None]) -> None:
        folder = self._kiln_job.order.scratch / f"checkpoint-{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True)
            write(folder)
        except Exception as error:
            if not no_room(error):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            log.warning("%s: no checkpoint, its last one holds: %s", self._kiln_job.order.work.job_id, error)
        else:
            self._kiln_job.tell(Checkpoint(folder))
