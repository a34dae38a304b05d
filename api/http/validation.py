"""JSON Schema judges everything that comes in; the catalog's wording says what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema_rs import Draft202012Validator

from shared.errors import FieldError, InvalidInput
from shared.schema.faults import MAX_FAULTS, judge


class Schema:
    """A compiled JSON Schema (draft 2020-12).

    Lists of objects, as the jobs of a bulk submission are, are checked an item at a time, and no further than
    to the last fault that is reported: else the time it takes to refuse them grows with all faults there are.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        properties: Mapping[str, Any] = document.get("properties", {})
        self._lists = {
            name: Schema(rule["items"])
            for name, rule in properties.items()
            if "properties" in rule.get("items", ())
        }
        apart = {name: {**properties[name], "items": {}} for name in self._lists}
        self._outer = {**document, "properties": {**properties, **apart}} if apart else dict(document)
        self._validator = Draft202012Validator(self._outer, validate_formats=True)

    def check(self, value: Any, pointer: str = "") -> None:
        """Raises InvalidInput with a pointer for each fault; ``value`` has passed ``check_text``."""
        if not self._validator.is_valid(value):
            raise InvalidInput(judge(self._validator, self._document, value, pointer))
        found: list[FieldError] = []
        for name, schema in self._lists.items():
            for index, item in enumerate(value.get(name, ())):
                try:
                    schema.check(item, f"{pointer}/{name}/{index}")
                except InvalidInput as error:
                    found += error.errors
                if len(found) >= MAX_FAULTS:
                    break
        if found:
            raise InvalidInput(found[:MAX_FAULTS])
