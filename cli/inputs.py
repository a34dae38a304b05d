"""``KEY=VALUE`` words of the command line as a model's input, by the types of its schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from qanvas.client import Client


def inputs_from(client: Client, model: str, words: Sequence[str], task: str | None = None) -> dict[str, Any]:
    """The input object. A file (``KEY=@PATH``) is uploaded and its id put in its place."""
    known = client.model(model)
    if task is not None and task not in known.tasks:
        raise click.UsageError(f"{model} does {', '.join(known.tasks)}")
    properties = known.input_schemas[task or known.task].get("properties", {})
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise click.UsageError(f"{word!r} is not KEY=VALUE; {model} knows {', '.join(properties)}")
        found[name] = _value(client, properties.get(name, {}), text)
    return found


def _value(client: Client, schema: dict[str, Any], text: str) -> Any:
    if "x-file" in schema and text.startswith("@"):
        path = Path(text[1:]).expanduser()
        if not path.is_file():
            raise click.UsageError(f"no file {path}")
        return client.upload(path, purpose="input").id
    if "string" in _types(schema):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # the server says what is allowed


def _types(schema: dict[str, Any]) -> set[str]:
    """The types a schema allows, its alternatives' too."""
    kind = schema.get("type", [])
    found = {kind} if isinstance(kind, str) else set(kind)
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        found |= _types(choice)
    return found
