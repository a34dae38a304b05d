"""What a family of models declares of itself. Nothing here imports torch, or anything else that computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.catalog import tasks
from shared.catalog.entries.model import Model

JSON = "application/json"
#: where a training names the model that it goes on from, when its input is checked by itself
BASE_MODEL = "/input/base_model"
#: by task, an input schema
Schemas = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Task:
    """Something that a model of the family does."""

    #: the key in the family's ``engines``
    engine: str
    #: media type of its outputs; JSON where the answer is the job's ``result``
    output: str
    #: JSON Schema of a job's ``input``; None: the file named after the task in ``shared.catalog.tasks``
    schema: Mapping[str, Any] | None = None

    def input_schema(self, name: str) -> Mapping[str, Any]:
        """The schema of its input; ``name`` is the task's own name. For reading only."""
        return tasks.load(name) if self.schema is None else self.schema


def _takes_no_base(_: Model) -> str:
    return "this training goes on from no model"


@dataclass(frozen=True, slots=True)
class Training:
    """A task that makes a model. It is its own and only model."""

    task: Task
    #: why a training cannot go on from a model; empty where nothing speaks against it
    base_fault: Callable[[Model], str] = _takes_no_base


@dataclass(frozen=True, slots=True)
class Starter:
    """A model whose weights ship in the ``starters`` package."""

    #: what jobs name
    id: str
    #: its folder there
    folder: str
    task: str
    #: what its weights fix, as ``shared.schema.specialise`` takes it
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Which files of a repository of the Hugging Face hub a model needs, as patterns of paths."""

    wanted: Sequence[str] = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
    #: how many names the path of a file of weights has: 1 for the repository's top folder
    depth: int = 1


def _as_they_are(_entry: Mapping[str, Any], schemas: Schemas, _at: str) -> Schemas:
    return schemas


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models of one kind: what they do, what an operator may say of them, and who computes them.

    ``engines`` are ``module:Class``, by the key that a model's row in the database keeps; only a worker
    imports them."""

    name: str
    engines: Mapping[str, str]
    #: by the type of an output that no other family has, the class that encodes it: ``module:Class`` both
    encoders: Mapping[str, str] = field(default_factory=dict)
    #: by name, what its models do
    tasks: Mapping[str, Task] = field(default_factory=dict)
    #: tasks that a model of this task may do besides
    together: Mapping[str, Sequence[str]] = field(default_factory=dict)
    trainings: Mapping[str, Training] = field(default_factory=dict)
    starters: Sequence[Starter] = ()
    hub: HubFiles = HubFiles()
    #: by key, the JSON Schema of what an entry of the operator's catalog may say of these models alone
    keys: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: JSON Schema of an entry's ``options``, which only the engine understands
    options: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    #: the input schemas of an entry's tasks with what its keys bring. Raises InvalidInput below the pointer
    extend: Callable[[Mapping[str, Any], Schemas, str], Schemas] = _as_they_are
    #: models that need no files and no entry of the operator's
    models: Callable[[], Iterable[Model]] = tuple
    #: such models for drills and load tests alone; they are there where ``QANVAS_FAKE_MODELS`` is on
    fakes: Callable[[], Iterable[Model]] = tuple

    def input_schemas(self, task: str, others: Iterable[str] | None = None) -> dict[str, Mapping[str, Any]]:
        """The schema of a task's input, then those of ``others``: by default, of all that its models may do
        besides. For reading only. Raises KeyError for a task of another family."""
        besides = self.together.get(task, ()) if others is None else others
        return {name: self.tasks[name].input_schema(name) for name in (task, *besides)}
