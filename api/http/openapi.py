"""The OpenAPI 3.1 document, made of the same declarations that route and validate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from api.http.operations import Operation
from api.http.problems import MEDIA_TYPE
from api.native import schemas

_SUMMARY = (
    "An asynchronous job queue for generative models: submit a job, follow it, fetch what it made. "
    "Errors are problem documents (RFC 9457)."
)
_KEY = "key"
_PARAMETER = re.compile(r"{(\w+)}")


def document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """The document as JSON values."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Qanvas",
            "version": version,
            "description": _SUMMARY,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {
            "schemas": {name: _members(schema) for name, schema in schemas.NAMED.items()},
            "securitySchemes": {
                _KEY: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of `qanvas keys create`. While there is none, loopback needs none.",
                }
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": _parameters(operation),
        "responses": {str(status): _answer(answer) for status, answer in operation.answers.items()}
        | {str(status): _problem(status) for status in operation.problems},
        "security": [] if operation.scope is None else [{_KEY: _scopes(operation)}],
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, **_content(None, "application/json", operation.body)}
    if operation.form is not None:
        described["requestBody"] = {"required": True, **_content(None, "multipart/form-data", operation.form)}
    return described


def _scopes(operation: Operation) -> list[str]:
    return [str(operation.scope), *(["read"] if operation.reads else [])]


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(operation.path)
    ]
    query = [
        {"name": name, "in": "query", "required": False, "schema": dict(schema)}
        for name, schema in operation.query.items()
    ]
    headers = [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": text,
            "schema": {"type": "string", **operation.header_schemas.get(name, {})},
        }
        for name, text in operation.headers.items()
    ]
    return path + query + headers


def _answer(answer: Any) -> dict[str, Any]:
    described = _content(answer.description, answer.media_type, answer.schema)
    if answer.headers:
        described["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    return described


def _problem(status: HTTPStatus) -> dict[str, Any]:
    return _content(f"{status.phrase}.", MEDIA_TYPE, schemas.PROBLEM)


def _content(description: str | None, media_type: str, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    described: dict[str, Any] = {} if description is None else {"description": description}
    if schema is not None:
        described["content"] = {media_type: {"schema": _refer(schema)}}
    elif media_type != "application/json":
        described["content"] = {media_type: {}}
    return described


def _refer(value: Any) -> Any:
    """The schema with those that have a name replaced by a reference."""
    for name, schema in schemas.NAMED.items():
        if value is schema:
            return {"$ref": f"#/components/schemas/{name}"}
    return _members(value)


def _members(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _refer(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_refer(member) for member in value]
    return value
