"""The application over real databases and a real Valkey."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from api.app import create_app
from api.services import Services
from shared.settings import Settings
from tests.api.helpers import Api, Hand


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
