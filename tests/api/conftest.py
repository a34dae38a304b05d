"""The application over real databases and a real Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.routing import Rule

from api.app import create_app
from api.usecases.services import Services
from shared.settings import Settings
from tests.api.helpers import Api, Hand


@pytest.fixture(autouse=True, scope="session")
def _rules_are_compiled_once() -> Iterator[None]:
    """Werkzeug compiles functions for each rule of each app: most of what making one of 600 apps takes."""
    make, made = Rule._compile_builder, {}

    def once(rule: Rule, append_unknown: bool = True) -> Any:
        key = (rule.rule, append_unknown)
        if rule.defaults or rule.subdomain or rule.host:
            return make(rule, append_unknown)
        if key not in made:
            made[key] = make(rule, append_unknown)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "_compile_builder", once)
        yield


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    yield app
    app.extensions["qanvas"].close()


@pytest.fixture
def services(app: Flask) -> Services:
    found: Services = app.extensions["qanvas"]
    return found


@pytest.fixture
def api(app: Flask) -> Api:
    return Api(app)


@pytest.fixture
def hand(services: Services) -> Hand:
    return Hand(services)
