"""What is written beside the code agrees with it."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.settings_page import page
from shared.settings import PREFIX, SETTINGS, Settings

ROOT = Path(__file__).parents[1]
VARIABLES = {PREFIX + setting.name.upper() for setting in SETTINGS}


def test_every_setting_is_documented() -> None:
    assert (ROOT / "docs/settings.md").read_text() == page(), "run: make docs"


def test_settings_survive_the_way_through_a_childs_environment(tmp_path: Path) -> None:
    settings = Settings.from_env(
        {"QANVAS_DATA": str(tmp_path), "QANVAS_FAKE_MODELS": "1", "QANVAS_QUEUES": "a,b"}
    )
    assert set(settings.as_env()) == VARIABLES
    assert Settings.from_env(settings.as_env()) == settings


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "deploy/README.md"])
def test_what_the_pages_name_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", text)) <= VARIABLES
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not ((ROOT / name).parent / link).exists()] == []


def test_every_test_that_a_page_names_is_there() -> None:
    """``tests/path/test_file.py``, perhaps with ``::test_name`` or ``::TestClass::test_name`` behind it."""
    missing = []
    for page_path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md")):
        for path, names in re.findall(r"\btests/([\w/]+\.py)((?:::\w+)*)", page_path.read_text()):
            file = ROOT / "tests" / path
            source = file.read_text() if file.is_file() else ""
            wanted = names.split("::")[1:]
            if not source or any(
                not re.search(rf"^ *(?:def|class) {one}\b", source, re.MULTILINE) for one in wanted
            ):
                missing.append(f"{page_path.name}: tests/{path}{names}")
    assert missing == []


def _compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def test_compose_sets_only_settings_there_are() -> None:
    for name, service in _compose()["services"].items():
        found = {variable for variable in service.get("environment", {}) if variable.startswith(PREFIX)}
        assert found <= VARIABLES, name


def test_compose_has_every_part_and_checks_the_health_of_each() -> None:
    services = _compose()["services"]
    assert set(services) == {"postgres", "redis", "migrate", "api", "worker", "worker-cpu"}
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"migrate"}
    [device] = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert services["worker-cpu"]["profiles"] == ["cpu"]


def test_compose_builds_stages_that_the_dockerfile_has_and_none_runs_as_root() -> None:
    stages = re.split(r"^FROM ", (ROOT / "deploy/Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    users = {re.search(r"AS (\w+)", stage)[1]: "USER qanvas" in stage for stage in stages}  # type: ignore[index]
    builds = [service["build"] for service in _compose()["services"].values() if "build" in service]
    assert {build["target"] for build in builds} == {"api", "worker"}
    assert all(users[build["target"]] for build in builds)
    assert {build["dockerfile"] for build in builds} == {"deploy/Dockerfile"}


def test_the_workers_grace_is_longer_than_its_drain() -> None:
    grace = float(_compose()["services"]["worker"]["stop_grace_period"].removesuffix("s"))
    drain = next(float(setting.default) for setting in SETTINGS if setting.name == "drain_seconds")
    assert grace > drain


def test_every_dependency_is_pinned() -> None:
    pinned = {
        _plain(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    names = {_plain(re.split(r"[\[<>=; ]", requirement)[0]) for requirement in wanted} - {"qanvas"}
    assert names <= pinned


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
