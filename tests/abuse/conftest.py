"""The application as the tests of the API have it."""

from tests.api.conftest import _rules_are_compiled_once, api, app, services

__all__ = ["_rules_are_compiled_once", "api", "app", "services"]
