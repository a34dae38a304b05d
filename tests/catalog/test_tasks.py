"""A model that does several tasks, and what belongs to it beside its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shared.catalog import operator_file, tasks
from shared.catalog.catalog import Catalog
from shared.catalog.entries.model import Folder, Hub, Model, Stored
from shared.catalog.entries.serialization import from_entry, to_entry
from shared.db.engine import Database
from shared.errors import ConfigurationError, InvalidInput
from shared.settings import Settings

PAINTER = """
[models.painter]
task = "text-to-image"
tasks = ["image-to-image", "inpainting"]
folder = "painter"

[models.painter.inputs]
steps = { default = 7 }
strength = { default = 0.5 }

[models.painter.loras]
ink = { folder = "loras/ink" }
oil = { hub = "someone/loras", revision = "v1", file = "oil.safetensors" }
"""
TRACER = """
[models.tracer]
task = "text-to-image"
hub = "someone/painter"
controlnet = { hub = "someone/edges" }
"""


def read(tmp_path: Path, text: str) -> list[Model]:
    (tmp_path / "catalog.toml").write_text(text)
    return operator_file.read(tmp_path / "catalog.toml")


@pytest.fixture
def catalog(settings: Settings, database: Database, tmp_path: Path) -> Catalog:
    (tmp_path / "painter").mkdir()
    (tmp_path / "catalog.toml").write_text(PAINTER + TRACER)
    return Catalog(settings.with_(catalog=tmp_path / "catalog.toml", fake_models=True), database)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestTasks:
    def test_the_submission_says_which_and_the_first_is_meant_otherwise(self, catalog: Catalog) -> None:
        assert catalog.resolve("painter", None).task == "text-to-image"
        assert catalog.resolve("painter", "inpainting").task == "inpainting"
        assert catalog.resolve(None, "image-to-image").id == "painter"

    def test_each_has_a_schema_of_its_own(self, catalog: Catalog) -> None:
        given = {"prompt": "a", "image": "out_1"}
        redraw = catalog.resolve("painter", "image-to-image")
        checked = catalog.check_input(redraw, given)
        assert (checked["steps"], checked["strength"]) == (7, 0.5)
        with pytest.raises(InvalidInput, match="/input/mask: is required: image: the id of a file"):
            catalog.check_input(catalog.resolve("painter", "inpainting"), given)

    def test_an_input_of_another_task_names_that_task(self, catalog: Catalog) -> None:
        with pytest.raises(InvalidInput) as caught:
            catalog.check_input(catalog.get("painter"), {"prompt": "a", "image": "out_1", "mask": "out_1"})
        details = {fault.pointer: fault.detail for fault in caught.value.errors}
        assert details["/input/image"].endswith('give "task": "image-to-image"')
        assert details["/input/mask"].endswith('belongs to inpainting: give "task": "inpainting"')

    def test_a_task_that_the_model_does_not_do_is_refused_with_those_it_does(self, catalog: Catalog) -> None:
        with pytest.raises(
            InvalidInput, match="painter does text-to-image, image-to-image, inpainting; give"
        ):
            catalog.resolve("painter", "text-generation")

    def test_a_schema_is_compiled_once_for_each_task(self, catalog: Catalog) -> None:
        first, again = (catalog.resolve("painter", "inpainting") for _ in range(2))
        assert first.input_schema is again.input_schema

    def test_an_adapter_is_chosen_by_a_name_of_the_catalog(self, catalog: Catalog) -> None:
        painter = catalog.get("painter")
        checked = catalog.check_input(painter, {"prompt": "a", "loras": [{"name": "ink"}]})
        assert checked["loras"] == [{"name": "ink"}]
        assert catalog.check_input(painter, {"prompt": "a"})["loras"] == []
        with pytest.raises(InvalidInput, match="/input/loras/0/name: must be one of 'ink', 'oil'"):
            catalog.check_input(painter, {"prompt": "a", "loras": [{"name": "chalk"}]})
        with pytest.raises(InvalidInput, match="/input/loras: is not known here"):
            catalog.check_input(catalog.get("tracer"), {"prompt": "a", "loras": []})

    def test_a_model_with_a_controlnet_wants_a_control_image(self, catalog: Catalog) -> None:
        with pytest.raises(InvalidInput, match="/input/control_image: is required"):
            catalog.check_input(catalog.get("tracer"), {"prompt": "a"})
        checked = catalog.check_input(catalog.get("tracer"), {"prompt": "a", "control_image": "out_1"})
        assert checked["controlnet_conditioning_scale"] == 1


def test_sources_of_adapters_and_controlnets_are_those_of_models(tmp_path: Path) -> None:
    painter, tracer = read(tmp_path, PAINTER + TRACER)
    assert painter.loras == {
        "ink": Folder(str(tmp_path / "loras/ink")),
        "oil": Hub("someone/loras", "v1", "oil.safetensors"),
    }
    assert (painter.controlnet, tracer.controlnet) == (None, Hub("someone/edges"))
    assert list(painter.schemas) == ["text-to-image", "image-to-image", "inpainting"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("tasks = ['text-generation']", "/models/a/tasks: text-generation is not possible"),
        ("tasks = ['drawing']", "/models/a/tasks/0: must be one of"),
        ("loras.'a.b' = { folder = 'x' }", "/models/a/loras/a.b: must be a name"),
        ("loras.a = { folder = 'x', file = 'b.safetensors' }", "/models/a/loras/a"),
        ("loras.a = { hub = 'x/y', file = '../b.safetensors' }", "/models/a/loras/a/file"),
        ("loras.a = {}", "/models/a/loras/a: give exactly one of hub, folder"),
        ("controlnet = 'x/y'", "/models/a/controlnet: must be a table with hub or folder"),
        ("inputs.strength.default = 0.5", "/models/a/inputs/strength: is no input of this task"),
    ],
)
def test_a_fault_is_named_with_its_place(entry: str, said: str, tmp_path: Path) -> None:
    text = f"[models.a]\ntask = 'text-to-image'\nfolder = 'x'\n{entry}"
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)


def test_only_diffusion_models_have_adapters(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="/models/a/loras: is not possible: no model for text-gen"):
        read(tmp_path, "[models.a]\ntask='text-generation'\nfolder='x'\nloras.b.folder='y'")


def test_the_task_of_a_model_can_be_any_of_its_own() -> None:
    names = {"text-to-image": "text-to-image", "inpainting": "inpainting"}
    known = {task: tasks.load(name) for task, name in names.items()}
    model = Model(
        id="m",
        task="text-to-image",
        engine="diffusion",
        source=Stored("models/job_1"),
        input_schema=known["text-to-image"],
        also={"inpainting": known["inpainting"]},
        output="image/png",
    )
    other = model.doing("inpainting")
    assert (other.task, other.input_schema) == ("inpainting", known["inpainting"])
    assert set(other.schemas) == set(model.schemas) and other.doing("text-to-image") == model
    assert model.doing("text-to-image") is model
    assert from_entry("m", to_entry(model), "ann") == replace(model, owner="ann")
    with pytest.raises(KeyError):
        model.doing("image-to-image")


def test_a_schema_that_extends_another_says_what_differs() -> None:
    base, redraw = tasks.load("text-to-image"), tasks.load("image-to-image")
    assert redraw["properties"]["steps"] == base["properties"]["steps"]
    assert redraw["properties"]["width"]["maximum"] == base["properties"]["width"]["maximum"]
    assert redraw["properties"]["width"]["description"] != base["properties"]["width"]["description"]
    assert "image" not in base["properties"] and "extends" not in redraw
    assert tasks.load("inpainting")["required"] == ["prompt", "image", "mask"]
