"""Schema faults in plain words: which field, and what is allowed there. Pure.

A fault shows the value that was given only where it is short."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jsonschema_rs import ValidationError, ValidationErrorKind

from shared.errors import FieldError

#: values are shown up to this many characters
SHOWN = 40
#: unknown fields are named one by one up to this many
NAMED = 10
#: names that an unknown one is compared with: each takes as long as the check of a small submission
_COMPARED = 200

_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def faults(error: ValidationError, schema: Mapping[str, Any], pointer: str) -> Iterator[FieldError]:
    """What one error of the validator says; ``pointer`` is where the checked value stands."""
    at = pointer + "".join(f"/{escape(part)}" for part in error.instance_path)
    parent = _below(schema, error.schema_path[:-1])
    known = list(parent.get("properties", ()))
    match error.kind:
        case ValidationErrorKind.Required(property=name):
            wanted = describe(parent.get("properties", {}).get(name, {}))
            yield FieldError(f"{at}/{escape(name)}", f"is required: {wanted}")
        case ValidationErrorKind.AdditionalProperties(unexpected=names):
            for name in names[:NAMED]:
                yield unknown_name(name, known, at)
        case ValidationErrorKind.FalseSchema():
            yield FieldError(at, f"cannot be given{_beside(error.schema_path)}; leave it out")
        case ValidationErrorKind.OneOfNotValid() | ValidationErrorKind.OneOfMultipleValid() if (
            names := _alternatives(parent.get("oneOf", ()))
        ):
            yield FieldError(at, f"give exactly one of {_listed(names)}")
        case ValidationErrorKind.AnyOf() if names := _alternatives(parent.get("anyOf", ())):
            yield FieldError(at, f"give at least one of {_listed(names)}")
        case ValidationErrorKind.Enum(options=options):
            hint = did_you_mean(error.instance, [option for option in options if isinstance(option, str)])
            yield FieldError(at, f"must be {describe(parent)}{given(error.instance)}{hint}")
        case _:
            yield FieldError(at, f"must be {describe(parent)}{given(error.instance)}")


def unknown_name(name: str, known: Sequence[str], pointer: str) -> FieldError:
    """The fault of a member of the object at ``pointer`` whose name is none of the ``known``."""
    detail = f"is not known here{did_you_mean(name, known)}; known are {_listed(known)}"
    return FieldError(f"{pointer}/{escape(_shortened(name))}", detail)


def describe(schema: Mapping[str, Any]) -> str:
    """What a schema allows: ``a whole number, a multiple of 8, 64 to 512``."""
    if "x-expects" in schema:
        return str(schema["x-expects"])
    if "const" in schema:
        return _shown(schema["const"])
    if "enum" in schema:
        return f"one of {_listed(map(_shown, schema['enum']))}"
    if "x-file" in schema:
        return (
            f"{schema['x-file']}: the id of a file (file_…) or of an output (out_…), "
            '{"job": "job_…", "output": 0}, a data: URI, or an http(s) URL'
        )
    choices = schema.get("oneOf") or schema.get("anyOf") or ()
    if choices and not _alternatives(choices):
        return " or ".join(describe(choice) for choice in choices)
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    return " or ".join(_described(kind, schema) for kind in kinds) or "something else"


def did_you_mean(given: object, known: Sequence[str]) -> str:
    """``; did you mean 'width'?``, or nothing where nothing is near among the first ``_COMPARED``."""
    if not isinstance(given, str) or len(given) > SHOWN:
        return ""
    folded = {name.lower(): name for name in known[:_COMPARED] if len(name) <= SHOWN}
    near = difflib.get_close_matches(given.lower(), folded, n=1, cutoff=0.5)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


def escape(part: str | int) -> str:
    """A part of a JSON pointer (RFC 6901)."""
    return str(part).replace("~", "~0").replace("/", "~1")


def _described(kind: str, schema: Mapping[str, Any]) -> str:
    words = [_TYPES[kind]]
    match kind:
        case "string":
            if schema.get("format") == "date-time":
                words = ["a time as in 2030-01-31T12:00:00Z"]
            words += _bounds(schema, "minLength", "maxLength", " characters")
            if "pattern" in schema:
                words.append(f"matching {schema['pattern']}")
        case "integer" | "number":
            if "multipleOf" in schema:
                words.append(f"a multiple of {schema['multipleOf']}")
            words += [f"above {schema['exclusiveMinimum']}"] if "exclusiveMinimum" in schema else []
            words += _bounds(schema, "minimum", "maximum")
            words += [f"below {schema['exclusiveMaximum']}"] if "exclusiveMaximum" in schema else []
        case "array":
            words += _bounds(schema, "minItems", "maxItems", " items")
            if "items" in schema:
                words.append(f"each {describe(schema['items'])}")
        case "object":
            words += _bounds(schema, "minProperties", "maxProperties", " names")
            if names := list(schema.get("properties", ())):
                words.append(f"with {_listed(names)}")
    return ", ".join(words)


def _bounds(schema: Mapping[str, Any], low: str, high: str, unit: str = "") -> list[str]:
    least, most = schema.get(low), schema.get(high)
    if least is not None and most is not None:
        return [f"{least} to {most}{unit}"]
    if least is not None:
        return [f"at least {least}{unit}"]
    return [f"at most {most}{unit}"] if most is not None else []


def given(value: object) -> str:
    """``; got 65``: the value where it is short, else its size."""
    match value:
        case str() if len(value) > SHOWN:
            return f"; got {len(value)} characters"
        case list():
            return f"; got a list of {len(value)}"
        case dict() if len(value) > NAMED:
            return f"; got an object of {len(value)} names"
        case dict():
            return "; got an object"
    return f"; got {_shown(value)}"


def _shown(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > 128:  # str() of a huge one is slow, and refused beyond a limit
            return "a huge number"
        case str():
            return repr(_shortened(value))
    return _shortened(str(value))


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _alternatives(choices: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names in ``[{"required": ["a"]}, {"required": ["b"]}]``; empty for any other choice."""
    if choices and all(list(choice) == ["required"] for choice in choices):
        return [" and ".join(choice["required"]) for choice in choices]
    return []


def _beside(path: Sequence[str | int]) -> str:
    """`` beside …``: the input that rules out the one at a path of the schema, if one does."""
    rule = next((index for index, part in enumerate(path) if part == "dependentSchemas"), None)
    return "" if rule is None else f" beside {path[rule + 1]}"


def _below(schema: Mapping[str, Any], path: Iterable[str | int]) -> Mapping[str, Any]:
    """The schema at a path; a path through a keyword that is no schema gives an empty one."""
    found: Any = schema
    for part in path:
        found = found[part]
    return found if isinstance(found, Mapping) else {}
