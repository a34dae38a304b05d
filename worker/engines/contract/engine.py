"""What an engine is given and what it gives back: two verbs, ``load`` once and ``run`` many."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shared.catalog.entries.model import Model
from worker.engines.contract.datasets import Wanted

Value = TypeVar("Value")


class StopReason(StrEnum):
    CANCELED = "canceled"
    DEADLINE = "deadline"
    DRAINING = "draining"  #: the worker is told to leave: save a checkpoint, the job goes on elsewhere
    LOST = "lost"  #: the lease is another worker's now: save nothing


class Stopped(BaseException):
    """Raised by ``Context.boundary``; a BaseException, so that no library's ``except Exception`` eats it."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Device:
    """Where tensors live: a torch device string and a torch dtype name, as ``cuda:0`` and ``float16``."""

    name: str = "cpu"
    dtype: str = "float32"
    #: bytes that the weights of the model to be loaded may take there; 0 where nobody said
    memory: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One job as an engine sees it."""

    job_id: str
    task: str
    #: validated input with defaults filled in and the seed resolved; file references are local paths (str)
    input: Mapping[str, Any]
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """``step`` of ``total`` in ``stage``; ``total`` is None where it cannot be known."""

    stage: str
    step: int
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Pixels as uint8, shape (height, width, 3), and what the file's metadata shall say of them."""

    pixels: NDArray[np.uint8]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A finished file that is stored as it is (say, a strip of training samples)."""

    path: Path
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A folder of a model that shall enter the catalog under the job's ``input.name``."""

    folder: Path
    task: str
    engine: str
    input_schema: Mapping[str, Any]
    description: str
    #: further tasks that it does, with the schema of each one's ``input``
    also: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """``outputs`` become files in the order given: images, files, or what an encoder of the family takes.
    ``value`` is the job's JSON ``result``."""

    outputs: tuple[object, ...] = ()
    value: Mapping[str, Any] | None = None
    model: TrainedModel | None = None


class Point(Protocol):
    """A place in a loaded model where calls of several jobs can be computed as one."""

    @property
    def name(self) -> str:
        """As people know it: ``unet``, ``vae.decode``."""

    def compute(self, calls: Sequence[Call]) -> Sequence[Any]:
        """An answer for each call, in order; a call alone is computed exactly as it was made.

        Raises OutOfMemory, NotShareable for calls that cannot be put together, and what the model raises."""

    def agree(self, one: Any, other: Any) -> bool:
        """Whether two answers to the same call are the same within the error of rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a job that waits to be computed, perhaps together with those of others."""

    point: Point
    #: what the point needs to compute it
    arguments: Any
    #: calls of one point with equal keys may be computed as one; None: this one is computed apart
    key: Hashable = None
    #: why there is no key
    apart: str = ""
    #: rows of a batch that it takes
    rows: int = 1
    #: calls of equal layout are put together in the same way, which is checked once; None: no need to
    layout: Hashable = None
    #: calls of equal size take equally long for equal rows; None: the time is not measured
    size: str | None = None
    #: one of many alike in its job. What comes once, as encoding a prompt does, goes first
    looped: bool = True
    #: computing it again gives the same, so that it may be tried again where memory ran out
    repeatable: bool = True


class NotShareable(Exception):
    """These calls cannot be computed as one, for the reason given; each alone can."""


class Context(Protocol):
    """A job's line to the outside while it computes; only the job's own thread calls it."""

    @property
    def device(self) -> Device: ...

    @property
    def scratch(self) -> Path:
        """An empty folder of this attempt, removed when the attempt ends."""

    @property
    def resume(self) -> Path | None:
        """The folder of the job's latest checkpoint, from an earlier attempt; None on a fresh start."""

    def boundary(self, progress: Progress | None = None) -> None:
        """Report progress and let others run. Raises Stopped when the job shall end."""

    def share(self, call: Call) -> Any:
        """Have a call computed, together with equal ones of other jobs; a boundary too.

        Returns the answer, or raises what computing it raised."""

    def compute(self, work: Callable[[], Value], doing: str = "computing") -> Value:
        """Run ``work`` on the engine thread, as this job's turn; a boundary too.

        That thread alone computes on all cores of a CPU: a training step or the forward of a model whose
        calls are not shared belongs in here. ``work`` calls nothing of the context, and is run once.
        Returns what it returned, or raises what it raised; memory that ran out is an OutOfMemory that says
        it was while ``doing`` so."""

    def token(self, text: str) -> None:
        """Stream a piece of generated text."""

    def preview(self, image: Image) -> None:
        """Show what there is so far."""

    def checkpoint(self, write: Callable[[Path], None]) -> None:
        """Give ``write`` an empty folder to fill; once it returns, that replaces the last checkpoint."""


class Engine(Protocol):
    """One per family of models. ``load`` may take minutes; ``run`` is plain blocking code."""

    def load(self, model: Model, folder: Path | None, device: Device) -> Any:
        """Make the model ready on the device. ``folder`` is where its files lie; None for builtin ones.

        Raises ModelUnavailable (files missing or unreadable), OutOfMemory."""

    def nbytes(self, loaded: Any) -> int:
        """Parameters and buffers, in bytes: what keeping this model resident costs."""

    def run(self, loaded: Any, work: Work, context: Context) -> Result:
        """Compute one job. Raises JobError, or lets Stopped through."""


@runtime_checkable
class Trainer(Engine, Protocol):
    """An engine whose jobs learn from a dataset, which is read before they compute."""

    def wants(self, given: Mapping[str, Any], resume: Path | None) -> Wanted:
        """How to read the dataset of a job with this input: ``run`` finds ``Pictures`` or ``Text`` of
        ``worker.inputs.datasets`` as ``dataset``. ``resume`` is the job's latest checkpoint.

        Raises InvalidInput."""
