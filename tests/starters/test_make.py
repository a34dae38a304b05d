"""The recipes of the starters are jobs that a server takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.catalog import tasks
from shared.schema.input_check import InputCheck
from starters import make
from starters.make import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_valid_training_whose_model_has_a_place(name: str) -> None:
    recipe = RECIPES[name]
    given = {**recipe.input, "dataset": "file_1", "name": f"{name}-again"}
    InputCheck(tasks.load(recipe.task)).check(given, "/input")
    assert (Path(make.__file__).parent / recipe.folder / "README.md").is_file()
