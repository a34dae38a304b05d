"""JSON Schema judges everything that comes in; the catalog's wording says what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from jsonschema_rs import Draft202012Validator

from shared.catalog.wording import faults
from shared.errors import FieldError, InvalidInput

#: more faults than this in one answer help nobody
_MOST = 20


class Schema:
    """A compiled JSON Schema (draft 2020-12)."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._validator = Draft202012Validator(dict(document), validate_formats=True)

    def check(self, value: Any) -> None:
        """Raises InvalidInput with a pointer for each fault; ``value`` has passed ``body.check_text``."""
        if self._validator.is_valid(value):
            return
        found: dict[str, FieldError] = {}
        for error in islice(self._validator.iter_errors(value), 10 * _MOST):
            for fault in faults(error, self._document, ""):
                found.setdefault(fault.pointer, fault)
        raise InvalidInput(list(found.values())[:_MOST])
