"""The application: services, operations and errors put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, redirect
from flask.typing import ResponseReturnValue

from api.http import host_checks, openapi, problems
from api.http.metrics import Metrics
from api.http.operations import Group, Operation, route
from api.native import dead_letters, files, groups, health, jobs, models, outputs, webhooks, workers
from api.services import Services
from api.usecases.readiness import Readiness
from shared.settings import Settings

VERSION = "0.1.0"


class _App(Flask):
    """Flask, where nothing is asynchronous: it would look at each function again for every request."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


GROUPS: tuple[Group, ...] = (
    jobs.group,
    dead_letters.group,
    groups.group,
    files.group,
    outputs.group,
    webhooks.group,
    models.group,
    workers.group,
    health.group,
)


def operations() -> list[Operation]:
    """Every operation there is."""
    return [operation for group in GROUPS for operation in group.operations]


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application; ``app.extensions["qanvas"]`` are its services, to be closed by whoever made it.

    Raises ConfigurationError. It does not touch the network: where the database or Redis is away, requests
    are answered with a 503.
    """
    services = Services(settings or Settings.from_env())
    app = _App("qanvas", static_folder=None, template_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.redirect_defaults = False
    app.extensions["qanvas"] = services
    metrics = Metrics(services)
    app.extensions["qanvas.metrics"] = metrics
    app.extensions["qanvas.readiness"] = Readiness(services)
    metrics.install(app)
    host_checks.install(app)
    problems.install(app)
    declared = operations()
    paths = {operation.path for operation in declared}
    for operation in declared:
        route(app, services, operation, paths)
    _pages(app, openapi.document(declared, VERSION))
    return app


def _pages(app: Flask, document: dict[str, Any]) -> None:
    app.extensions["qanvas.openapi"] = document
    app.add_url_rule("/", endpoint="start", view_func=_start)


def _start() -> ResponseReturnValue:
    return redirect("/docs")
