"""Which models there are, for a tenant, and what each takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from shared.catalog import builtin, operator_file
from shared.catalog.entries.family import BASE_MODEL
from shared.catalog.entries.model import Folder, Model
from shared.catalog.entries.serialization import from_entry
from shared.catalog.families import trainings
from shared.catalog.trained import TrainedModelRow, TrainedModels
from shared.db.engine import Database
from shared.errors import ConfigurationError, FieldError, InvalidInput, NotFound
from shared.schema.input_check import InputCheck
from shared.schema.messages import did_you_mean
from shared.settings import Settings

#: compiled schemas and trained models kept at once
KEPT = 512


class Catalog:
    """The operator's models, then starters, trainers and ``fake``, then those that the tenant trained."""

    def __init__(self, settings: Settings, database: Database) -> None:
        """Reads the operator's file once. Raises ConfigurationError for its faults."""
        self._fixed: dict[str, Model] = {}
        own = operator_file.read(settings.catalog) if settings.catalog is not None else []
        fakes = builtin.fakes() if settings.fake_models else ()
        for model in chain(own, builtin.starters(), builtin.without_files(), builtin.trainers(), fakes):
            if model.id in self._fixed:
                raise ConfigurationError(
                    f"the catalog {settings.catalog} has a model {model.id!r}, which is built in; "
                    "give it another name"
                )
            self._fixed[model.id] = model
        self._trained = TrainedModels(database)
        self._trainings = trainings()
        self._rows: dict[tuple[str, str, str, float], Model] = {}
        self._checks: dict[int, tuple[Mapping[str, Any], InputCheck]] = {}

    def list(self, tenant: str = "default") -> list[Model]:
        """Every model that the tenant may name. Raises Unavailable when the database is away."""
        trained = [self._from_row(row) for row in self._trained.list(tenant) if row.id not in self._fixed]
        return [*self._fixed.values(), *trained]

    def page(self, tenant: str, *, after: str | None, limit: int) -> Sequence[Model]:
        """So many of ``list``, those that come after the model of this id."""
        fixed = list(self._fixed)
        begin = 0 if after is None else fixed.index(after) + 1 if after in self._fixed else len(fixed)
        found = [self._fixed[model_id] for model_id in fixed[begin : begin + limit]]
        rest = after if after is not None and after not in self._fixed else ""
        while len(found) < limit:
            rows = self._trained.list(tenant, after=rest, limit=limit - len(found))
            if not rows:
                break
            rest = rows[-1].id
            found += [self._from_row(row) for row in rows if row.id not in self._fixed]
        return found

    def get(self, model_id: str, tenant: str = "default") -> Model:
        """Raises NotFound."""
        if (fixed := self._fixed.get(model_id)) is not None:
            return fixed
        if (row := self._trained.get(model_id, tenant)) is None:
            raise NotFound("model", model_id)
        return self._from_row(row)

    def resolve(self, model: str | None, task: str | None, tenant: str = "default") -> Model:
        """The model that a submission means, with its task as the model's own: the model it names, or the
        first one ready for its task.

        Raises InvalidInput pointing at ``/model`` or ``/task``."""
        if model is not None:
            return self._named(model, task, tenant)
        known = self.list(tenant)
        if task is None:
            raise InvalidInput.at("/model", "give a model, or a task; GET /v1/models lists those there are")
        fitting = [each.doing(task) for each in known if task in each.schemas]
        if not fitting:
            tasks = list(dict.fromkeys(name for each in known for name in each.schemas))
            raise InvalidInput.at(
                "/task", f"no model does this here{did_you_mean(task, tasks)}; tasks are {', '.join(tasks)}"
            )
        return next((each for each in fitting if self.state(each) == "ready"), fitting[0])

    def check_input(
        self, model: Model, given: object, pointer: str = "/input", tenant: str = "default"
    ) -> dict[str, Any]:
        """The input, valid, with defaults filled in and the seed drawn. Raises InvalidInput, each fault below
        ``pointer``."""
        schema = model.input_schema
        kept = self._checks.get(id(schema))
        if kept is None or kept[0] is not schema:
            if len(self._checks) >= KEPT:
                self._checks.clear()
            # The schema is kept too: while it is, no other one gets the same id().
            kept = self._checks[id(schema)] = (schema, InputCheck(schema))
        try:
            checked = kept[1].check(given, pointer)
        except InvalidInput as error:
            raise InvalidInput([_with_task(model, fault, pointer) for fault in error.errors]) from None
        if model.task in self._trainings:
            if checked["name"] in self._fixed:
                raise InvalidInput.at(
                    f"{pointer}/name", "is a model of this server already; choose another name"
                )
            if (base := checked.get("base_model")) is not None:
                self.base(base, tenant, model.task, f"{pointer}/base_model")
        return checked

    def base(self, model_id: str, tenant: str, training: str, pointer: str = BASE_MODEL) -> Model:
        """The model that a training goes on from. Raises InvalidInput for one that it cannot go on from."""
        found = self._known(model_id, tenant, pointer)
        if fault := self._trainings[training].base_fault(found):
            raise InvalidInput.at(pointer, fault)
        return found

    def state(self, model: Model) -> Literal["ready", "missing"]:
        """``missing``: the folder that the model comes from is not here. What comes from the hub or from the
        storage counts as ready: a worker fetches it when a job needs it."""
        away = isinstance(model.source, Folder) and not Path(model.source.path).is_dir()
        return "missing" if away else "ready"

    def _known(self, model_id: str, tenant: str, pointer: str) -> Model:
        """Raises InvalidInput pointing at where it was named."""
        try:
            return self.get(model_id, tenant)
        except NotFound:
            hint = did_you_mean(model_id, [each.id for each in self.list(tenant)])
            raise InvalidInput.at(
                pointer, f"there is no such model{hint}; GET /v1/models lists those there are"
            ) from None

    def _named(self, model_id: str, task: str | None, tenant: str) -> Model:
        found = self._known(model_id, tenant, "/model")
        if task is not None and task not in found.schemas:
            hint = "leave the task out, or say that" if not found.also else "give one of these"
            raise InvalidInput.at("/task", f"model {found.id} does {', '.join(found.schemas)}; {hint}")
        return found if task is None else found.doing(task)

    def _from_row(self, row: TrainedModelRow) -> Model:
        """The same object for the same row, so that its compiled schema is found again."""
        key = (row.tenant, row.id, row.job_id, row.created_at)
        if (known := self._rows.get(key)) is None:
            if len(self._rows) >= KEPT:
                self._rows.clear()
            known = self._rows[key] = from_entry(row.id, row.entry, row.tenant)
        return known


def _with_task(model: Model, fault: FieldError, pointer: str) -> FieldError:
    """The fault, and where it is an input of another of the model's tasks, that task."""
    name = fault.pointer.removeprefix(f"{pointer}/")
    if name in model.input_schema["properties"]:
        return fault
    tasks = [task for task, schema in model.also.items() if name in schema["properties"]]
    cure = f'; it belongs to {" and ".join(tasks)}: give "task": "{tasks[0]}"' if tasks else ""
    return FieldError(fault.pointer, fault.detail + cure)
