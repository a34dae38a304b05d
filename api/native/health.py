"""Whether it lives, whether it can work, what it counts, and what it can do."""

from __future__ import annotations

from pathlib import Path

from flask import Response, current_app

from api.native import schemas
from api.native.metrics import CONTENT_TYPE, Metrics
from api.native.serialization import answer
from api.routing.operations import Answer, Call, Group
from api.usecases.readiness import Readiness

group = Group("health")

_PAGE = Path(__file__).with_name("docs.html")


@group.operation(
    "GET",
    "/healthz",
    summary="The process lives",
    scope=None,
    answers={200: Answer("It does.", schemas.HEALTH)},
)
def healthz(_: Call) -> Response:
    return answer({"status": "ok"})


@group.operation(
    "GET",
    "/readyz",
    summary="Submissions are accepted and kept",
    scope=None,
    answers={
        200: Answer(
            "They are: `ready`, or `degraded` with what does not work beside, as Redis, without which jobs "
            "start later and events are missed.",
            schemas.READINESS,
        )
    },
)
def readyz(_: Call) -> Response:
    readiness: Readiness = current_app.extensions["qanvas.readiness"]
    if degraded := readiness.degraded():
        return answer({"status": "degraded", "degraded": degraded})
    return answer({"status": "ready"})


@group.operation(
    "GET",
    "/metrics",
    summary="Figures for Prometheus, of all tenants",
    scope="admin",
    answers={200: Answer("In Prometheus's text format.", media_type="text/plain")},
)
def metrics(_: Call) -> Response:
    figures: Metrics = current_app.extensions["qanvas.metrics"]
    return Response(figures.text(), content_type=CONTENT_TYPE)


@group.operation(
    "GET",
    "/openapi.json",
    summary="This document",
    scope=None,
    answers={200: Answer("OpenAPI 3.1.", {"type": "object"})},
)
def openapi_document(_: Call) -> Response:
    return answer(current_app.extensions["qanvas.openapi"])


@group.operation(
    "GET",
    "/docs",
    summary="This document as a page",
    scope=None,
    answers={200: Answer("A page that needs nothing from elsewhere.", media_type="text/html")},
)
def docs(_: Call) -> Response:
    response = Response(_PAGE.read_bytes(), mimetype="text/html")
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
    )
    return response
