"""What a training may go on from, as the API sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.catalog import tasks
from shared.catalog.catalog import Catalog
from shared.catalog.entries.model import Stored
from shared.catalog.families.diffusion.base_models import PARTS
from shared.db.engine import Database
from shared.errors import InvalidInput
from shared.schema.input_check import InputCheck
from shared.settings import Settings
from tests.catalog.test_catalog import Train, train

__all__ = ["train"]  # a fixture

OPERATORS = """
[models.ours]
task = "text-to-image"
folder = "ours"

[models.large]
task = "text-to-image"
folder = "large"

[models.broken]
task = "text-to-image"
folder = "broken"

[models.elsewhere]
task = "text-to-image"
folder = "elsewhere"

[models.hub-xl]
task = "text-to-image"
hub = "someone/xl"
"""
DRAWING: dict[str, Any] = {
    "task": "text-to-image",
    "engine": "diffusion",
    "source": Stored("models/job_1-1"),
    "input_schema": tasks.load("text-to-image"),
}
GIVEN = {"dataset": "file_1", "name": "mine"}


@pytest.fixture
def catalog(settings: Settings, database: Database, tmp_path: Path) -> Catalog:
    index = {part: ["library", made] for part, made in PARTS.items()}
    index_of_others = {**index, "vae": ["diffusers", "AutoencoderKL"]}
    for name, content in (("ours", index), ("large", index_of_others), ("broken", {"vae": None})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text(json.dumps(content))
    (tmp_path / "catalog.toml").write_text(OPERATORS)
    return Catalog(settings.with_(catalog=tmp_path / "catalog.toml", fake_models=True), database)


def check(catalog: Catalog, base: str, **given: Any) -> dict[str, Any]:
    model = catalog.get("train-diffusion")
    return catalog.check_input(model, {**GIVEN, "base_model": base, **given})


def test_a_training_goes_on_from_a_starter_a_trained_model_and_a_folder_that_may_be_one(
    catalog: Catalog, train: Train
) -> None:
    train("drawings", **DRAWING)
    # what lies on a worker alone, that worker looks at
    for base in ("starter-image", "drawings", "ours", "elsewhere"):
        assert check(catalog, base)["base_model"] == base


def test_what_the_trainer_did_not_make_is_refused_with_the_cure(catalog: Catalog, train: Train) -> None:
    train("faces")
    refused = {
        "faces": "was not made by train-diffusion",
        "fake": "was not made by train-diffusion",
        "train-diffusion": "was not made by train-diffusion",
        "hub-xl": "was not made by train-diffusion",
        "large": r"has another vae than train-diffusion makes \(AutoencoderTiny\)",
        "broken": "does not have the parts",
    }
    for base, said in refused.items():
        with pytest.raises(
            InvalidInput, match=f"^/input/base_model: {base} {said}.*; give a model .* starter"
        ):
            check(catalog, base)


def test_an_unknown_model_and_another_tenants_are_both_no_such_model(catalog: Catalog, train: Train) -> None:
    train("theirs", tenant="other", **DRAWING)
    for base in ("theirs", "nothing-of-the-kind"):
        with pytest.raises(InvalidInput, match=r"^/input/base_model: there is no such model"):
            check(catalog, base)
    model, given = catalog.get("train-diffusion"), {**GIVEN, "base_model": "theirs"}
    assert catalog.check_input(model, given, tenant="other")["base_model"] == "theirs"
    with pytest.raises(InvalidInput, match="did you mean 'starter-image'"):
        check(catalog, "starter-imag")


def test_what_the_model_settles_cannot_be_given_beside_it_and_has_no_default(catalog: Catalog) -> None:
    schema = tasks.load("train-diffusion")
    settled = list(schema["dependentSchemas"]["base_model"]["properties"])
    alone = InputCheck(schema).check(GIVEN, "/input")
    beside = check(catalog, "starter-image")
    assert alone.keys() - beside.keys() - {"base_model"} == set(settled)
    assert beside["steps"] == alone["steps"]
    with pytest.raises(InvalidInput) as caught:
        check(catalog, "starter-image", **{name: alone[name] for name in settled})
    assert {fault.pointer: fault.detail for fault in caught.value.errors} == dict.fromkeys(
        (f"/input/{name}" for name in settled), "cannot be given beside base_model; leave it out"
    )
