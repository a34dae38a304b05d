"""The operator's own models, from a TOML file.

    [models.sd-turbo]
    task = "text-to-image"
    hub = "stabilityai/sd-turbo"
    revision = "b261bac6fd2cf515557d5d0707481eafa0485ec2"
    license = "stabilityai-nc-community"

    [models.sd-turbo.inputs]       # what differs from the task's own inputs
    steps = { default = 1, maximum = 4 }
    guidance_scale = { default = 0.0 }
    negative_prompt = false        # the model does not know it

A ``folder`` in place of ``hub`` is a path on each worker, taken from the file's own folder where relative.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonschema_rs import Draft202012Validator, ValidationError

from shared.catalog import schemas
from shared.catalog.check import InputCheck
from shared.catalog.models import Folder, Hub, Model
from shared.catalog.tasks import TASKS
from shared.catalog.wording import describe
from shared.errors import ConfigurationError, FieldError, InvalidInput

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TEXT = {"type": "string", "minLength": 1}
_FILE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["models"],
    "properties": {
        "models": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["task"],
                "oneOf": [{"required": ["hub"]}, {"required": ["folder"]}],
                "dependentRequired": {"revision": ["hub"]},
                "properties": {
                    "task": {"enum": list(TASKS)},
                    "hub": {
                        "type": "string",
                        "pattern": r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$",
                        "x-expects": "a repository of the hub, as owner/name",
                    },
                    "revision": _TEXT,
                    "folder": _TEXT,
                    "queue": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
                    "license": _TEXT,
                    "description": {"type": "string"},
                    "trust_remote_code": {"type": "boolean"},
                    "options": {"type": "object"},
                    "inputs": {
                        "type": "object",
                        "additionalProperties": {
                            "oneOf": [{"type": "object"}, {"const": False}],
                            "x-expects": "a table of what differs, or false to take the input away",
                        },
                    },
                },
            },
        }
    },
}


def read(path: Path) -> list[Model]:
    """The models of the file, in its order. Raises ConfigurationError naming each fault and its place."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the catalog {path} cannot be read: {error}; QANVAS_CATALOG names the file"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"the catalog {path} is not TOML: {error}") from error
    try:
        InputCheck(_FILE).check(document, "")
        return [_model(name, entry, path.parent) for name, entry in document["models"].items()]
    except InvalidInput as error:
        raise ConfigurationError(f"the catalog {path} has faults: {error}") from error


def _model(model_id: str, entry: Mapping[str, Any], base: Path) -> Model:
    """Raises InvalidInput."""
    at = f"/models/{model_id}"
    task = TASKS[entry["task"]]
    if not _ID.fullmatch(model_id):
        raise InvalidInput.at(at, "must be an id of 1 to 100 letters, digits and . _ -")
    trusted = entry.get("trust_remote_code", False)
    revision = entry.get("revision", "main")
    if trusted and "hub" in entry and not _COMMIT.fullmatch(revision):
        raise InvalidInput.at(
            f"{at}/revision",
            "must be a commit of 40 hex digits where trust_remote_code is on, so that the code that runs "
            "is the code that you read",
        )
    return Model(
        id=model_id,
        task=entry["task"],
        engine=task.engine,
        source=(
            Hub(entry["hub"], revision)
            if "hub" in entry
            else Folder(str((base / Path(entry["folder"]).expanduser()).resolve()))
        ),
        input_schema=_input_schema(task.schema, entry.get("inputs", {}), f"{at}/inputs"),
        output=task.output,
        queue=entry.get("queue", "default"),
        license=entry.get("license"),
        description=entry.get("description", ""),
        trust_remote_code=trusted,
        options=entry.get("options", {}),
    )


def _input_schema(name: str, inputs: Mapping[str, Any], at: str) -> dict[str, Any]:
    try:
        schema = schemas.specialise(schemas.load(name), inputs)
    except InvalidInput as error:
        raise InvalidInput([FieldError(at + each.pointer, each.detail) for each in error.errors]) from None
    try:
        Draft202012Validator(schema)
    except ValidationError as error:
        place = "/".join(str(part) for part in error.instance_path[1:])
        raise InvalidInput.at(f"{at}/{place}", "is not what JSON Schema allows there") from None
    if unfit := list(_unfit_defaults(schema, at)):
        raise InvalidInput(unfit)
    return schema


def _unfit_defaults(schema: Mapping[str, Any], at: str) -> Iterator[FieldError]:
    for name, rule in schema["properties"].items():
        if "default" in rule and not Draft202012Validator(rule).is_valid(rule["default"]):
            yield FieldError(f"{at}/{name}/default", f"must be {describe(rule)}")
