"""A dialect: one API over the jobs that all dialects share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import Request

from api.auth.credentials import SecretOf, bearer
from api.http.problems import Render
from api.routing.operations import Group, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What is peculiar to one API: its routes, credentials and errors."""

    #: as people call it, in lower case
    name: str
    groups: Sequence[Group]
    #: how a problem becomes an answer
    render: Render
    #: media type and JSON Schema of that answer's body
    error_media_type: str
    error_schema: Mapping[str, Any]
    #: paths below which errors are this dialect's also where nothing is routed; all others are the first's
    prefixes: Sequence[str] = ()
    #: where a request brings its key, and what OpenAPI calls that
    secret_of: SecretOf = bearer
    security: Mapping[str, Any] = field(default_factory=lambda: {"type": "http", "scheme": "bearer"})
    #: schemas of its documents that have a name in the OpenAPI document
    schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: before the name of each of its operations, so that no two dialects have the same
    id_prefix: str = ""

    @property
    def operations(self) -> list[Operation]:
        return [operation for group in self.groups for operation in group.operations]

    def id_of(self, operation: Operation) -> str:
        """The operation's name, unique among all dialects."""
        return f"{self.id_prefix}{operation.id}"


class Dialects:
    """All of them; the first is the native one, which has every path that is no other's."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        """Raises ValueError where two operations have the same name."""
        self.all = tuple(dialects)
        self._by_operation: dict[str, Dialect] = {}
        for dialect in self.all:
            for operation in dialect.operations:
                name = dialect.id_of(operation)
                if name in self._by_operation:
                    other = self._by_operation[name].name
                    raise ValueError(f"both {dialect.name} and {other} have an operation {name!r}")
                self._by_operation[name] = dialect

    def of(self, request: Request) -> Dialect:
        """The dialect that a request speaks: its route's, else that of the longest prefix of its path."""
        if request.endpoint in self._by_operation:
            return self._by_operation[request.endpoint]
        fitting = [
            (len(prefix), dialect)
            for dialect in self.all[1:]
            for prefix in dialect.prefixes
            if request.path.startswith(prefix)
        ]
        return max(fitting, key=lambda one: one[0])[1] if fitting else self.all[0]
