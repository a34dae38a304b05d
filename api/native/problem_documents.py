"""Errors of the native API: ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from flask import Response, request

from api.auth.credentials import KeyNeeded
from api.http.problems import Problem
from shared.errors import OverLimit, Unauthorized

MEDIA_TYPE = "application/problem+json"

#: characters of a client's own words that are repeated to it
_ECHO = 300


def render(problem: Problem) -> Response:
    """The problem document."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": _short(problem.detail),
        "instance": _short(request.path),
        **problem.members,
    }
    if isinstance(problem.error, OverLimit):
        document["type"] = "urn:qanvas:problem:over-limit"
    if problem.errors:
        document["type"] = "urn:qanvas:problem:invalid-input"
        document["errors"] = [
            {"pointer": _short(error.pointer), "detail": _short(error.detail)} for error in problem.errors
        ]
    if isinstance(problem.error, KeyNeeded):
        document["detail"] = (
            "a key is needed: send Authorization: Bearer qk_…; make one with: qanvas keys create NAME"
        )
    response = Response(json.dumps(document), problem.status, mimetype=MEDIA_TYPE)
    response.headers.extend(dict(problem.headers))
    if isinstance(problem.error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="qanvas"'
    return response


def _short(text: str) -> str:
    return text if len(text) <= _ECHO else f"{text[:_ECHO]}…"
