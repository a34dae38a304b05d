"""The application as the tests of the API have it."""

from tests.api.conftest import api, app, services

__all__ = ["api", "app", "services"]
