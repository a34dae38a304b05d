"""The faults of a value that a validator has refused, found in a time that the value's size does not decide.

The validator copies each faulty value, and all faults of it, before it names the first. So what is too large
for its place is told without the validator, and what is large and allowed is shown to it cut short. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from jsonschema_rs import Draft202012Validator

from shared.errors import FieldError
from shared.schema.messages import NAMED, describe, escape, faults, given, unknown_name

#: faults reported at once: more in one answer help nobody
MAX_FAULTS = 20
#: characters of a text, and items or members, from which a value counts as large
_LONG, _MANY = 1 << 16, 1000
#: keywords by which a schema says more of a value than what ``_fitted`` looks at
_FURTHER = frozenset(
    ("$ref", "allOf", "not", "if", "patternProperties", "propertyNames", "prefixItems", "contains")
)


def judge(
    validator: Draft202012Validator, schema: Mapping[str, Any], value: Any, pointer: str
) -> list[FieldError]:
    """The first faults of a value that does not fit, one for each place, in the validator's order.

    ``schema`` is what the validator was made of, for the wording; ``pointer`` is where the value stands."""
    shown = _Fitting()
    fitted = shown.fit(schema, value, pointer)
    if shown.faults:
        return shown.faults[:MAX_FAULTS]
    found: dict[str, FieldError] = {}
    for error in islice(validator.iter_errors(fitted), 10 * MAX_FAULTS):
        for fault in faults(error, schema, pointer):
            found.setdefault(fault.pointer, fault)
    return list(found.values())[:MAX_FAULTS] or [FieldError(pointer, f"must be {describe(schema)}")]


class _Fitting:
    """Goes through a value and the schema of each of its parts."""

    def __init__(self) -> None:
        self.faults: list[FieldError] = []

    def fit(self, schema: Mapping[str, Any], value: Any, at: str) -> Any:
        """The value, cut to what the validator need see of it; what is too large is noted as a fault."""
        if not isinstance(value, str | list | dict) or len(self.faults) >= MAX_FAULTS:
            return value
        rule = _chosen(schema, value)
        if rule is None or _exceeds(rule, value):
            if rule is None and len(value) <= (_LONG if isinstance(value, str) else _MANY):
                return value  # of the wrong kind and small: the validator says so
            self.faults.append(FieldError(at, f"must be {describe(schema)}{given(value)}"))
            return value
        if isinstance(value, str):
            return value[:_LONG]
        if rule.keys() & _FURTHER:
            return value
        return self._list(rule, value, at) if isinstance(value, list) else self._object(rule, value, at)

    def _list(self, rule: Mapping[str, Any], value: list[Any], at: str) -> list[Any]:
        items = rule.get("items")
        if not isinstance(items, Mapping):
            return value[:_MANY] if rule.get("uniqueItems") else [None] * min(len(value), _MANY)
        return [self.fit(items, item, f"{at}/{index}") for index, item in enumerate(value[:_MANY])]

    def _object(self, rule: Mapping[str, Any], value: dict[str, Any], at: str) -> dict[str, Any]:
        known = rule.get("properties", {})
        others = rule.get("additionalProperties", True)
        if others is False and len(value) > _MANY:
            strangers = islice((name for name in value if name not in known), NAMED)
            self.faults += [unknown_name(name, list(known), at) for name in strangers]
            return value
        return dict(self._members(known, others, value, at))

    def _members(
        self, known: Mapping[str, Any], others: Any, value: dict[str, Any], at: str
    ) -> Iterator[tuple[str, Any]]:
        for name, part in value.items():
            if name in known:
                yield name, self.fit(known[name], part, f"{at}/{escape(name)}")
            elif isinstance(others, Mapping):
                yield name, part
            else:  # nobody looks into it: anything goes, or its name is the fault
                yield name, None


def _chosen(schema: Mapping[str, Any], value: str | list[Any] | dict[str, Any]) -> Mapping[str, Any] | None:
    """The schema, or that of its alternatives, that speaks of values of this kind; None where none does."""
    kind = {str: "string", list: "array", dict: "object"}[type(value)]
    kinds = schema.get("type", kind)
    if kind not in ([kinds] if isinstance(kinds, str) else kinds):
        return None
    choices = schema.get("oneOf") or schema.get("anyOf") or ()
    if not any("type" in choice for choice in choices):
        return schema
    return next((choice for choice in choices if kind in (choice.get("type") or ())), None)


def _exceeds(rule: Mapping[str, Any], value: str | list[Any] | dict[str, Any]) -> bool:
    """Whether the value is larger than the rule allows: a text only where it is long."""
    match value:
        case str():
            short = "enum" in rule or "const" in rule or "pattern" in rule
            return len(value) > _LONG and (short or len(value) > int(rule.get("maxLength", len(value))))
        case list():
            return len(value) > int(rule.get("maxItems", len(value)))
    return len(value) > int(rule.get("maxProperties", len(value)))
