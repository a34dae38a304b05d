"""One check of a job's input: valid, complete, and with its seed decided."""

from __future__ import annotations

import copy
import math
import secrets
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from jsonschema_rs import Draft202012Validator

from shared.errors import FieldError, InvalidInput
from shared.jobs.references import with_references
from shared.schema.faults import MAX_FAULTS, judge
from shared.schema.messages import SHOWN, describe, escape

MAX_DEPTH = 32  #: of nested lists and objects
MAX_SEED = 0xFFFF_FFFF


class InputCheck:
    """A compiled schema. Making one takes milliseconds, ``check`` some microseconds: keep it."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = with_references(schema)
        self._validator = Draft202012Validator(self._schema)
        properties: Mapping[str, Any] = schema.get("properties", {})
        defaults = {name: prop["default"] for name, prop in properties.items() if "default" in prop}
        self._defaults = defaults
        self._ruled_out = _ruled_out(schema)
        self._shared = [name for name, value in defaults.items() if isinstance(value, list | dict)]
        self._whole = frozenset(name for name, prop in properties.items() if prop.get("type") == "integer")
        seed = properties.get("seed")
        self._seeds = None if seed is None else min(seed.get("maximum", MAX_SEED), MAX_SEED) + 1

    def check(self, given: object, pointer: str) -> dict[str, Any]:
        """The input with defaults filled in and the seed drawn. Raises InvalidInput naming every fault."""
        if not isinstance(given, dict):
            raise InvalidInput.at(pointer, f"must be {describe(self._schema)}")
        try:
            valid = self._validator.is_valid(given)
        except ValueError:  # no JSON, or nested beyond all measure, or text that is not Unicode
            valid = None
        if oddities := list(islice(_oddities(given, pointer, 0), MAX_FAULTS)):
            raise InvalidInput(oddities)
        if valid is None:
            raise InvalidInput.at(pointer, "holds a value that JSON does not know, such as a date")
        if not valid:
            raise InvalidInput(judge(self._validator, self._schema, given, pointer))
        complete = {**self._defaults, **given}
        for name in self._shared:
            complete[name] = copy.deepcopy(complete[name])
        for name in self._ruled_out.keys() & given.keys():
            for other in self._ruled_out[name]:
                complete.pop(other, None)
        for name, value in given.items():
            if type(value) is float and name in self._whole:
                complete[name] = int(value)  # JSON Schema lets 64.0 pass for 64
        if self._seeds is not None and complete.get("seed") is None:
            complete["seed"] = secrets.randbelow(self._seeds)
        return complete


def _ruled_out(schema: Mapping[str, Any]) -> dict[str, list[str]]:
    """For each input those that cannot be given beside it: their defaults do not hold then either."""
    return {
        name: [other for other, allowed in rule.get("properties", {}).items() if allowed is False]
        for name, rule in schema.get("dependentSchemas", {}).items()
    }


def _oddities(value: object, pointer: str, depth: int) -> Iterator[FieldError]:
    """What a JSON parser lets through and a database does not keep."""
    match value:
        case str():
            if detail := _odd_text(value):
                yield FieldError(pointer, detail)
        case float():
            if not math.isfinite(value):
                yield FieldError(pointer, "must be a finite number")
        case dict() | list() if depth == MAX_DEPTH:
            yield FieldError(pointer, f"is nested too deep; at most {MAX_DEPTH} levels are allowed")
        case dict():
            for name, item in value.items():
                if detail := _odd_text(name):
                    yield FieldError(pointer, f"has a field whose name {detail}")
                elif not isinstance(item, int):
                    yield from _oddities(item, f"{pointer}/{escape(name[:SHOWN])}", depth + 1)
        case list():
            for index, item in enumerate(value):
                yield from _oddities(item, f"{pointer}/{index}", depth + 1)


def _odd_text(text: str) -> str:
    if "\0" in text:
        return "has the character U+0000, which is not allowed"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "has half of a surrogate pair, which is not valid Unicode"
    return ""
