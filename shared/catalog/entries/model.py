"""A model as the catalog knows it: what it does, what it takes and where its files come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Starter:
    """A folder of weights that ships in the ``starters`` package: ``starters/<name>/``."""

    name: str


@dataclass(frozen=True, slots=True)
class Folder:
    """An absolute path on each worker's machine, named by the operator."""

    path: str


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository of the Hugging Face hub at one revision (a commit, a tag or a branch)."""

    repo: str
    revision: str = "main"
    #: the one file of it that is wanted; empty for all that the model needs
    file: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """A folder in the storage, as training writes it: every key below ``prefix``."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Builtin:
    """No files: the engine needs none, or makes its own."""


Source = Starter | Folder | Hub | Stored | Builtin


def owned(tenant: str, model_id: str) -> str:
    """What workers call a tenant's own model; neither name has a slash."""
    return f"{tenant}/{model_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of the catalog."""

    #: what jobs name, unique for a tenant
    id: str
    #: the tenant that trained it, and alone may name it; None for a model of all
    owner: str | None = None
    #: a task name of Hugging Face, or ``train-…``; what a job means that names none
    task: str
    #: the key in ``worker.engines.registry``
    engine: str
    source: Source
    #: JSON Schema (2020-12) of a job's ``input``: an object, with defaults and limits
    input_schema: Mapping[str, Any]
    #: further tasks that the same weights do, and the schema of each one's ``input``
    also: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: media type of the outputs, ``application/json`` where the answer is the job's ``result``
    output: str
    #: the queue whose workers run it
    queue: str = "default"
    #: SPDX identifier or the license's name; None where nobody said
    license: str | None = None
    description: str = ""
    #: let the model's own Python code run in the worker; the operator alone may say so
    trust_remote_code: bool = False
    #: what only the engine understands
    options: Mapping[str, Any] = field(default_factory=dict)
    #: LoRA adapters by the name that jobs give: a folder with one file of weights each
    loras: Mapping[str, Source] = field(default_factory=dict)
    #: a second network that leads the first along a control image
    controlnet: Source | None = None

    @property
    def known_as(self) -> str:
        """What workers call it, who have those of all tenants: two may have given the same name."""
        return self.id if self.owner is None else owned(self.owner, self.id)

    @property
    def schemas(self) -> dict[str, Mapping[str, Any]]:
        """The schema of each task's ``input``, the model's own task first."""
        return {self.task: self.input_schema, **self.also}

    def doing(self, task: str) -> Model:
        """The same model with one of its tasks as its own. Raises KeyError for one that it does not do."""
        if task == self.task:
            return self
        others = {name: schema for name, schema in self.schemas.items() if name != task}
        return replace(self, task=task, input_schema=self.also[task], also=others)

    def part(self, what: str, source: Source) -> Model:
        """Something that belongs to the model, as a model of its own: for fetching its files."""
        return replace(self, id=f"{self.id}, {what}", source=source, engine="")

    @property
    def revision(self) -> str | None:
        """The pinned revision of a hub model."""
        return self.source.revision if isinstance(self.source, Hub) else None
