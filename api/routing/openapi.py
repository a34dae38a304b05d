"""The OpenAPI 3.1 document, made of the same declarations that route and validate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from api.routing.dialect import Dialect
from api.routing.operations import Answer, Operation

_PARAMETER = re.compile(r"{(\w+)}")


def document(dialects: Sequence[Dialect], version: str, summary: str) -> dict[str, Any]:
    """The document as JSON values."""
    named = {name: schema for dialect in dialects for name, schema in dialect.schemas.items()}
    return _Document(named).of(dialects, version, summary)


class _Document:
    """``named`` are the schemas that others refer to by their name."""

    def __init__(self, named: Mapping[str, Mapping[str, Any]]) -> None:
        self._named = named

    def of(self, dialects: Sequence[Dialect], version: str, summary: str) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {}
        tags: dict[str, None] = {}
        for dialect in dialects:
            for operation in dialect.operations:
                tags[operation.tag] = None
                paths.setdefault(operation.path, {})[operation.method.lower()] = self._operation(
                    dialect, operation
                )
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Qanvas",
                "version": version,
                "description": summary,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": [{"name": tag} for tag in tags],
            "paths": paths,
            "components": {
                "schemas": {name: self._members(schema) for name, schema in self._named.items()},
                "securitySchemes": {_scheme(dialect): dict(dialect.security) for dialect in dialects},
            },
        }

    def _operation(self, dialect: Dialect, operation: Operation) -> dict[str, Any]:
        described: dict[str, Any] = {
            "operationId": dialect.id_of(operation),
            "summary": operation.summary,
            "tags": [operation.tag],
            "parameters": _parameters(operation),
            "responses": {str(status): self._answer(answer) for status, answer in operation.answers.items()}
            | {str(status): self._problem(dialect, status) for status in operation.problems},
            "security": [] if operation.scope is None else [{_scheme(dialect): _scopes(operation)}],
        }
        for media_type, schema in (
            ("application/json", operation.body),
            ("multipart/form-data", operation.form),
        ):
            if schema is not None:
                described["requestBody"] = {"required": True, **self._content(None, media_type, schema)}
        return described

    def _answer(self, answer: Answer) -> dict[str, Any]:
        described = self._content(answer.description, answer.media_type, answer.schema)
        if answer.headers:
            described["headers"] = {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in answer.headers.items()
            }
        return described

    def _problem(self, dialect: Dialect, status: HTTPStatus) -> dict[str, Any]:
        return self._content(f"{status.phrase}.", dialect.error_media_type, dialect.error_schema)

    def _content(
        self, description: str | None, media_type: str, schema: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        described: dict[str, Any] = {} if description is None else {"description": description}
        if schema is not None:
            described["content"] = {media_type: {"schema": self._refer(schema)}}
        elif media_type != "application/json":
            described["content"] = {media_type: {}}
        return described

    def _refer(self, value: Any) -> Any:
        """The schema with those that have a name replaced by a reference."""
        for name, schema in self._named.items():
            if value is schema:
                return {"$ref": f"#/components/schemas/{name}"}
        return self._members(value)

    def _members(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._refer(member) for name, member in value.items()}
        if isinstance(value, list | tuple):
            return [self._refer(member) for member in value]
        return value


def _scheme(dialect: Dialect) -> str:
    return f"{dialect.id_prefix}key"


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
