"""One declaration for each operation: it routes, authorises, validates, and becomes the OpenAPI document.

@operation("GET", "/v1/things/{id}", summary="One thing", answers={200: Answer("The thing", THING)})
def get_thing(call: Call, id: str) -> Response: ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from flask import Flask, Request, Response, request
from werkzeug.routing import BaseConverter, Map

from api.auth import credentials
from api.auth.caller import Caller
from api.http import body_checks
from api.http.bodies import Body
from api.http.validation import Schema
from api.server.client import Client
from api.usecases.services import Services
from shared.accounts.keys import Scope
from shared.errors import FieldError, InvalidInput


@dataclass(frozen=True, slots=True)
class Answer:
    """One status an operation answers with; ``schema`` is None where there is no body or no JSON."""

    description: str
    schema: Mapping[str, Any] | None = None
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked: ``query`` and ``body`` fit their schemas."""

    services: Services
    request: Request
    caller: Caller
    query: Mapping[str, Any]
    received: Body | None = None

    @property
    def body(self) -> Any:
        """The JSON body; None where the operation takes none."""
        return None if self.received is None else self.received.value

    def release_body(self) -> None:
        """Let go of the body: call this before a wait, for it may be large."""
        if self.received is not None:
            self.received.release()

    def has_left(self) -> bool:
        """Whether nobody waits for the answer any more."""
        client: Client | None = self.request.environ.get("qanvas.client")
        return client is not None and client.has_left()

    @property
    def tenant(self) -> str:
        """Whose things this request is about: nobody else's can be seen."""
        return self.caller.tenant


Handler = Callable[..., Response]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    method: str
    #: as OpenAPI writes it, with ``{id}`` for a parameter
    path: str
    summary: str
    tag: str
    handler: Handler
    #: what a key must allow; None where nobody is asked
    scope: Scope | None = "read"
    #: whether the key must allow to read as well, as the answer tells of more than the request sent
    reads: bool = False
    #: schema of each parameter in the query
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: what each header that the operation heeds means
    headers: Mapping[str, str] = field(default_factory=dict)
    #: what the text of such a header must be where not anything goes; published here, checked by the handler
    header_schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: schema of a JSON body; None where there is none, or where the handler reads it
    body: Mapping[str, Any] | None = None
    #: schema of a multipart body, which the handler reads
    form: Mapping[str, Any] | None = None
    answers: Mapping[int, Answer] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The name of its function, unique."""
        return self.handler.__name__

    @property
    def problems(self) -> list[HTTPStatus]:
        """The statuses of the problems that it may answer with."""
        found = {
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            HTTPStatus.SERVICE_UNAVAILABLE,
        }
        if self.scope is not None:
            found |= {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS}
        if self.body is not None or self.form is not None:
            found |= {
                HTTPStatus.REQUEST_TIMEOUT,
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            }
        if "{" in self.path:
            found |= {HTTPStatus.NOT_FOUND} | ({HTTPStatus.CONFLICT} if self.method != "GET" else set())
        if HTTPStatus.PARTIAL_CONTENT in self.answers:
            found |= {HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}
        return sorted(found)


class Group:
    """The operations of one module, in the order in which they are written."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.operations: list[Operation] = []

    def operation(self, method: str, path: str, **declared: Any) -> Callable[[Handler], Handler]:
        """Declare the function below as the answer to this operation."""

        declared["query"] = {name: _text(schema) for name, schema in declared.get("query", {}).items()}

        def declare(handler: Handler) -> Handler:
            self.operations.append(
                Operation(method=method, path=path, tag=self.tag, handler=handler, **declared)
            )
            return handler

        return declare


def _text(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a parameter; free text says that it holds no NUL, which ``check_text`` refuses."""
    free = schema.get("type") == "string" and not schema.keys() & {"enum", "pattern", "format"}
    return {**schema, "pattern": r"^[^\u0000]*$"} if free else schema


def route(
    app: Flask,
    services: Services,
    operation: Operation,
    *,
    endpoint: str,
    secret_of: credentials.SecretOf,
    paths: Collection[str],
) -> None:
    """Let the app answer an operation. ``paths`` are those of all operations."""
    query = _Query(operation.query)
    schema = None if operation.body is None else Schema(operation.body)

    def view(**path: str) -> Response:
        asked = request._get_current_object()  # type: ignore[attr-defined]  # a proxy of this thread alone
        caller = credentials.check(services, asked, operation.scope, secret_of)
        if operation.reads:
            caller.check_may_read()
        if operation.scope is not None:
            services.limits.request(caller)
        values = query.read(asked)
        if schema is None:
            return operation.handler(Call(services, asked, caller, values), **path)
        with services.bodies.receive(asked, caller.tenant) as received:
            schema.check(received.value)
            return operation.handler(Call(services, asked, caller, values, received), **path)

    app.url_map.converters.setdefault("name", _Name)
    app.add_url_rule(
        _rule(operation.path, paths), endpoint=endpoint, view_func=view, methods=[operation.method]
    )


def _rule(path: str, paths: Collection[str]) -> str:
    """The path as Flask writes it."""

    def parameter(found: re.Match[str]) -> str:
        before = path[: found.start()]
        others = {other.removeprefix(before).partition("/")[0] for other in paths if other.startswith(before)}
        words = sorted(repr(word) for word in others if "{" not in word)
        return f"<name({', '.join(words)}):{found[1]}>"

    return re.sub(r"{(\w+)}", parameter, path)


class _Name(BaseConverter):
    """A parameter of the path: any segment but the words that are paths of their own beside it, whose methods
    would be taken for theirs."""

    part_isolating = True

    def __init__(self, rules: Map, *words: str) -> None:
        super().__init__(rules)
        self.regex = f"(?!(?:{'|'.join(map(re.escape, words))})$)[^/]+" if words else "[^/]+"


class _Query:
    """Parameters of the query: text that becomes what its schema says."""

    def __init__(self, parameters: Mapping[str, Mapping[str, Any]]) -> None:
        self._parameters = parameters
        self._schema = Schema(
            {"type": "object", "properties": dict(parameters), "additionalProperties": False}
        )
        self._defaults = {
            name: schema["default"] for name, schema in parameters.items() if "default" in schema
        }

    def read(self, request: Request) -> dict[str, Any]:
        """Raises InvalidInput; the pointers are the parameters' names."""
        if not request.query_string:
            return dict(self._defaults)
        given = request.args.to_dict(flat=False)
        values: dict[str, Any] = {}
        for name, texts in given.items():
            if len(texts) > 1:
                raise InvalidInput([FieldError(body_checks.pointer((name,)), "must be given once")])
            values[name] = _typed(texts[0], self._parameters.get(name, {}).get("type"))
        body_checks.check_text(values)
        self._schema.check(values)
        return self._defaults | values


def _typed(text: str, wanted: str | None) -> Any:
    """The text as what the schema wants, or as it is, so that the schema refuses it."""
    if not text.isascii():  # Python takes the digits of every script
        return text
    try:
        if wanted == "integer":
            return int(text)
        if wanted == "number":
            return float(text)
    except ValueError:
        return text
    return text
