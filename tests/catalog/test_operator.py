"""The operator's own models, from a TOML file."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.catalog import operator_file
from shared.catalog.entries.model import Folder, Hub, Model
from shared.errors import ConfigurationError, InvalidInput
from shared.schema.input_check import InputCheck

COMMIT = "b261bac6fd2cf515557d5d0707481eafa0485ec2"


def read(tmp_path: Path, text: str) -> list[Model]:
    path = tmp_path / "catalog.toml"
    path.write_text(text)
    return operator_file.read(path)


def fault(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigurationError, match=r"catalog\.toml") as caught:
        read(tmp_path, text)
    return str(caught.value)


def test_a_hub_model_with_limits_of_its_own(tmp_path: Path) -> None:
    [model] = read(
        tmp_path,
        f"""
        [models.sd-turbo]
        task = "text-to-image"
        hub = "stabilityai/sd-turbo"
        revision = "{COMMIT}"
        license = "stabilityai-nc-community"
        queue = "large"
        options = {{ dtype = "float16" }}

        [models.sd-turbo.inputs]
        steps = {{ default = 1, maximum = 4 }}
        negative_prompt = false
        """,
    )
    assert (model.id, model.engine, model.queue) == ("sd-turbo", "diffusion", "large")
    assert (model.source, model.revision) == (Hub("stabilityai/sd-turbo", COMMIT), COMMIT)
    assert model.license == "stabilityai-nc-community"
    assert model.options == {"dtype": "float16"}
    assert not model.trust_remote_code
    check = InputCheck(model.input_schema)
    assert check.check({"prompt": "a"}, "")["steps"] == 1
    with pytest.raises(InvalidInput, match="/steps: must be a whole number, 1 to 4; got 5"):
        check.check({"prompt": "a", "steps": 5}, "")
    with pytest.raises(InvalidInput, match="/negative_prompt: is not known here"):
        check.check({"prompt": "a", "negative_prompt": "b"}, "")


def test_a_folder_is_taken_from_beside_the_file(tmp_path: Path) -> None:
    models = read(
        tmp_path,
        """
        models.a = { task = "text-generation", folder = "weights/a" }
        models.b = { task = "text-generation", folder = "/srv/b" }
        """,
    )
    assert [model.source for model in models] == [Folder(str(tmp_path / "weights/a")), Folder("/srv/b")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models = [", "is not TOML"),
        ("", "/models: is required"),
        ("[models.a]\nfolder = 'x'", "/models/a/task: is required: one of 'text-to-image'"),
        ("[models.a]\ntask = 'text-to-imag'\nhub = 'x/y'", "did you mean 'text-to-image'?"),
        ("[models.a]\ntask = 'text-to-image'", "/models/a: give exactly one of hub, folder"),
        ("[models.a]\ntask = 'text-to-image'\nhub = 'x'\nfolder = 'y'", "give exactly one of hub, folder"),
        ("[models.a]\ntask = 'text-to-image'\nhub = '../x'", "a repository of the hub, as owner/name"),
        ("[models.a]\ntask = 'text-to-image'\nhub = 'x/y'\nrevison = '1'", "did you mean 'revision'?"),
        ("[models.a]\ntask = 'text-to-image'\nfolder = 'x'\nrevision = '1'", "/models/a"),
        ("[models.a]\ntask = 'text-to-image'\nfolder = 'x'\nlicense = 2020-01-01", "such as a date"),
        ("[models.'a b']\ntask = 'text-to-image'\nfolder = 'x'", "must be an id of 1 to 100 letters"),
        (
            "[models.a]\ntask = 'text-to-image'\nhub = 'x/y'\ntrust_remote_code = true",
            "/models/a/revision: must be a commit of 40 hex digits",
        ),
        (
            "[models.a]\ntask = 'text-to-image'\nfolder = 'x'\ninputs.stepz.default = 1",
            "/models/a/inputs/stepz: is no input of this task; known are prompt",
        ),
        (
            "[models.a]\ntask = 'text-to-image'\nfolder = 'x'\ninputs.steps = 3",
            "/models/a/inputs/steps: must be a table of what differs, or false",
        ),
        (
            "[models.a]\ntask = 'text-to-image'\nfolder = 'x'\ninputs.steps.default = 1000",
            "/models/a/inputs/steps/default: must be a whole number, 1 to 150",
        ),
        (
            "[models.a]\ntask = 'text-to-image'\nfolder = 'x'\ninputs.steps.minimum = 'a'",
            "/models/a/inputs/steps/minimum: is not what JSON Schema allows",
        ),
        (
            "[models.a]\ntask = 'text-to-image'\nfolder = 'x'\noptions.offload = 'disk'",
            "/models/a/options/offload: must be one of 'none', 'model', 'group'",
        ),
    ],
)
def test_a_fault_is_named_with_its_place_and_the_cure(tmp_path: Path, text: str, said: str) -> None:
    assert said in fault(tmp_path, text)


def test_a_file_that_is_not_there_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.toml cannot be read: .* QANVAS_CATALOG"):
        operator_file.read(tmp_path / "absent.toml")
