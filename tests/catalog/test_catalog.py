"""Which models there are, and which one a submission means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.catalog import tasks
from shared.catalog.catalog import Catalog
from shared.catalog.entries.model import Builtin, Model, Stored
from shared.catalog.entries.serialization import from_entry, to_entry
from shared.db.engine import Database
from shared.errors import ConfigurationError, InvalidInput, NotFound
from shared.jobs.entities import Finish, NewJob, NewModel, Succeeded
from shared.jobs.leases import Leases
from shared.jobs.store import JobStore
from shared.schema.specialise import specialise
from shared.settings import Settings

OPERATORS = """
[models.painter]
task = "text-to-image"
folder = "painter"

[models.absent]
task = "text-to-image"
folder = "absent"
"""

Train = Callable[..., Model]


@pytest.fixture
def catalog(settings: Settings, database: Database, tmp_path: Path) -> Catalog:
    (tmp_path / "painter").mkdir()
    (tmp_path / "catalog.toml").write_text(OPERATORS)
    return Catalog(settings.with_(catalog=tmp_path / "catalog.toml", fake_models=True), database)


@pytest.fixture
def train(database: Database) -> Train:
    """Puts a trained model into the database in the one way there is: a job succeeds."""

    def succeed(name: str, tenant: str = "default", **changes: Any) -> Model:
        new = NewJob(tenant=tenant, task="train-gan", model="train-gan", queue="training", input={})
        JobStore(database).submit([new])
        leases = Leases(database, 30.0)
        [job] = leases.claim("worker_1", "training")
        fields: dict[str, Any] = {
            "id": name,
            "task": "unconditional-image-generation",
            "engine": "gan",
            "source": Stored(f"models/{job.id}"),
            "input_schema": tasks.load("unconditional-image-generation"),
            "output": "image/png",
            "description": "Faces.",
        }
        model = Model(**fields | changes)
        ending = Succeeded(model=NewModel(id=name, entry=to_entry(model)))
        leases.finish([Finish(job.id, job.attempt, ending)])
        return model

    return succeed


def refused(catalog: Catalog, model: str | None, task: str | None) -> tuple[str, str]:
    with pytest.raises(InvalidInput) as caught:
        catalog.resolve(model, task)
    [error] = caught.value.errors
    return error.pointer, error.detail


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestFixedModels:
    def test_the_operators_come_first_and_the_fakes_last(self, catalog: Catalog) -> None:
        ids = [model.id for model in catalog.list()]
        assert ids[:2] == ["painter", "absent"]
        assert ids[-2:] == ["fake", "fake-hanging"]
        assert {"train-diffusion", "train-gan", "train-text"} < set(ids)

    def test_the_fake_is_there_only_when_it_is_wanted(self, settings: Settings, database: Database) -> None:
        with pytest.raises(NotFound):
            Catalog(settings.with_(fake_models=False), database).get("fake")

    def test_a_model_whose_folder_is_not_here_is_missing(self, catalog: Catalog) -> None:
        states = {model.id: catalog.state(model) for model in catalog.list()}
        assert (states["painter"], states["absent"], states["fake"]) == ("ready", "missing", "ready")

    def test_a_task_means_the_first_model_that_is_ready_for_it(
        self, catalog: Catalog, tmp_path: Path
    ) -> None:
        assert catalog.resolve(None, "text-to-image").id == "painter"
        (tmp_path / "painter").rmdir()
        (tmp_path / "absent").mkdir()
        assert catalog.resolve(None, "text-to-image").id == "absent"

    def test_a_model_may_be_named_with_its_task(self, catalog: Catalog) -> None:
        assert catalog.resolve("fake", None).id == "fake"
        assert catalog.resolve("fake", "text-to-image").id == "fake"
        assert refused(catalog, "fake", "text-generation") == (
            "/task",
            "model fake does text-to-image; leave the task out, or say that",
        )

    def test_an_unknown_model_or_task_is_answered_with_the_nearest(self, catalog: Catalog) -> None:
        pointer, detail = refused(catalog, "pianter", None)
        assert pointer == "/model"
        assert "did you mean 'painter'?; GET /v1/models" in detail
        pointer, detail = refused(catalog, None, "text-to-imgae")
        assert pointer == "/task"
        assert "did you mean 'text-to-image'?; tasks are text-to-image, " in detail
        pointer, detail = refused(catalog, None, None)
        assert (pointer, detail[:28]) == ("/model", "give a model, or a task; GET")

    def test_each_model_checks_by_its_own_schema(self, catalog: Catalog) -> None:
        assert catalog.check_input(catalog.get("fake"), {"prompt": "a", "steps": 0})["steps"] == 0
        with pytest.raises(InvalidInput, match="/jobs/3/input/steps: must be a whole number, 1 to 150"):
            catalog.check_input(catalog.get("painter"), {"prompt": "a", "steps": 0}, "/jobs/3/input")

    def test_a_trained_model_cannot_take_the_name_of_a_fixed_one(self, catalog: Catalog) -> None:
        given = {"dataset": "file_1", "name": "painter"}
        with pytest.raises(InvalidInput, match="/input/name: is a model of this server already"):
            catalog.check_input(catalog.get("train-text"), given)
        assert catalog.check_input(catalog.get("train-text"), given | {"name": "mine"})["name"] == "mine"

    def test_an_operators_model_cannot_take_a_built_in_name(
        self, settings: Settings, database: Database, tmp_path: Path
    ) -> None:
        (tmp_path / "catalog.toml").write_text(OPERATORS.replace("painter", "train-gan"))
        with pytest.raises(ConfigurationError, match="'train-gan', which is built in; give it another name"):
            Catalog(settings.with_(catalog=tmp_path / "catalog.toml"), database)


def test_a_trained_model_enters_the_catalog_by_itself(catalog: Catalog, train: Train) -> None:
    with pytest.raises(NotFound):
        catalog.get("faces")
    model = replace(train("faces"), owner="default")
    assert catalog.get("faces") == model
    assert catalog.list()[-1] == model
    assert catalog.resolve("faces", None) == model
    assert catalog.resolve(None, "unconditional-image-generation").task == model.task
    assert catalog.state(model) == "ready"
    assert catalog.check_input(catalog.get("faces"), {"num_images": 2})["num_images"] == 2


def test_a_trained_model_is_its_tenants_own(catalog: Catalog, train: Train) -> None:
    train("faces", tenant="acme")
    train("faces", tenant="bob")
    known = {catalog.get("faces", tenant).known_as: tenant for tenant in ("acme", "bob")}
    assert (
        known == {"acme/faces": "acme", "bob/faces": "bob"} and catalog.get("painter").known_as == "painter"
    )
    assert catalog.get("faces", "acme").id == "faces"
    assert "faces" not in [model.id for model in catalog.list()]
    assert refused(catalog, "faces", None)[0] == "/model"


def test_a_model_that_was_trained_again_checks_by_its_new_schema(catalog: Catalog, train: Train) -> None:
    train("faces")
    catalog.check_input(catalog.get("faces"), {"num_images": 2})
    train(
        "faces",
        input_schema=specialise(tasks.load("unconditional-image-generation"), {"num_images": {"maximum": 1}}),
    )
    with pytest.raises(InvalidInput, match="/input/num_images"):
        catalog.check_input(catalog.get("faces"), {"num_images": 2})


def test_the_same_row_gives_the_same_object_so_that_its_schema_is_compiled_once(
    catalog: Catalog, train: Train
) -> None:
    train("faces")
    assert catalog.get("faces") is catalog.get("faces")


def test_only_a_model_in_the_storage_has_an_entry() -> None:
    model = Model(
        id="m",
        task="text-to-image",
        engine="diffusion",
        source=Builtin(),
        input_schema={},
        output="image/png",
    )
    with pytest.raises(ValueError, match="not in the storage"):
        to_entry(model)
    stored = Model(
        id="m",
        task="text-to-image",
        engine="diffusion",
        source=Stored("models/job_1"),
        input_schema={"type": "object"},
        output="image/png",
        license="CC0-1.0",
        options={"a": 1},
    )
    assert from_entry("m", to_entry(stored), "ann") == replace(stored, owner="ann")
