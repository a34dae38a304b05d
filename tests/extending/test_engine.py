"""A family of somebody's own, added by a package: the code of docs/extending/engine.md, run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.e2e.conftest import Server, up, up_settings  # noqa: F401 - fixtures
from tests.extending.pages import files_of, install
from tests.servers import Qanvas

PAGE = Path(__file__).parents[2] / "docs" / "extending" / "engine.md"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that every process finds packages in."""
    folder = tmp_path / "packages"
    folder.mkdir()
    paths = (str(folder), os.environ.get("PYTHONPATH"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    return folder


@pytest.mark.slow
def test_a_family_of_an_installed_package_takes_jobs(packages: Path, up: Callable[..., Server]) -> None:  # noqa: F811
    install(PAGE, packages)
    server = up()
    [model] = [one for one in server.http.get("/v1/models").json()["data"] if one["id"] == "shout"]
    assert (model["task"], model["output"]) == ("shouting", "application/json")
    body = {"model": "shout", "input": {"text": "hello", "times": 3}}
    answer = server.http.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"})
    assert answer.json()["result"] == {"text": "HELLO HELLO HELLO"}, answer.text
    refused = server.http.post("/v1/jobs", json={"task": "shouting", "input": {"text": "x", "times": 0}})
    assert refused.status_code == 422
    assert [one["pointer"] for one in refused.json()["errors"]] == ["/input/times"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("SCHEMA =", "import missing_module\nSCHEMA =", "cannot be imported"),
        ("FAMILY = Family(", "FAMILY = dict(", "leads to a dict, not to a qanvas Family"),
        (
            'name="shouting-models"',
            'name="diffusion"',
            "has the family 'diffusion', which the family",
        ),
        ('tasks={"shouting"', 'tasks={"text-to-image"', "has the task 'text-to-image'"),
        ('engines={"shout"', 'engines={"gan"', "has the engine 'gan'"),
    ],
)
def test_a_family_that_cannot_be_used_is_named_with_its_package(
    old: str,
    new: str,
    said: str,
    packages: Path,
    up_settings: Settings,  # noqa: F811
    qanvas: Callable[..., Qanvas],
) -> None:
    install(PAGE, packages)
    family = packages / "shout" / "family.py"
    assert old in files_of(PAGE)["shout/family.py"]
    family.write_text(family.read_text().replace(old, new))
    assert qanvas("migrate", settings=up_settings).wait() == 0
    for command in ("api", "worker"):
        refused = qanvas(command, settings=up_settings)
        assert refused.wait() == 1
        assert "qanvas: the package shout adds a family" in refused.said() and said in refused.said()
        assert "Traceback" not in refused.said()
