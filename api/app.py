"""The application: services, dialects and errors put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Flask, redirect
from flask.typing import ResponseReturnValue

from api.dialects import DIALECTS
from api.http import host_checks, problems
from api.native.metrics import Metrics
from api.routing import openapi
from api.routing.dialect import Dialect, Dialects
from api.routing.operations import route
from api.usecases.readiness import Readiness
from api.usecases.services import Services
from shared.settings import Settings
from shared.version import VERSION

_SUMMARY = (
    "An asynchronous job queue for generative models: submit a job, follow it, fetch what it made. "
    "Errors are problem documents (RFC 9457)."
)


def create_app(settings: Settings | None = None, dialects: Sequence[Dialect] = DIALECTS) -> Flask:
    """The WSGI application; ``app.extensions["qanvas"]`` are its services, to be closed by whoever made it.

    Raises ConfigurationError. It does not touch the network: where the database or Redis is away, requests
    are answered with a 503.
    """
    services = Services(settings or Settings.from_env())
    app = Flask("qanvas", static_folder=None, template_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.redirect_defaults = False
    app.extensions["qanvas"] = services
    metrics = Metrics(services)
    app.extensions["qanvas.metrics"] = metrics
    app.extensions["qanvas.readiness"] = Readiness(services)
    metrics.install(app)
    host_checks.install(app)
    known = Dialects(dialects)
    problems.install(app, lambda request: known.of(request).render)
    paths = {operation.path for dialect in known.all for operation in dialect.operations}
    for dialect in known.all:
        for operation in dialect.operations:
            route(
                app,
                services,
                operation,
                endpoint=dialect.id_of(operation),
                secret_of=dialect.secret_of,
                paths=paths,
            )
    _pages(app, openapi.document(known.all, VERSION, _SUMMARY))
    return app


def _pages(app: Flask, document: dict[str, Any]) -> None:
    app.extensions["qanvas.openapi"] = document
    app.add_url_rule("/", endpoint="start", view_func=_start)


def _start() -> ResponseReturnValue:
    return redirect("/docs")
