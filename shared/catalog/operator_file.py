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

    [models.sd-turbo.loras]        # adapters that its jobs may name
    watercolor = { folder = "loras/watercolor" }

A ``folder`` in place of ``hub`` is a path on each worker, taken from the file's own folder where relative.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonschema_rs import Draft202012Validator, ValidationError

from shared.catalog import families
from shared.catalog.entries.family import Family, Schemas
from shared.catalog.entries.model import Model
from shared.catalog.entries.sources import HAS_SOURCE, SOURCE, TEXT, source
from shared.errors import ConfigurationError, FieldError, InvalidInput
from shared.schema import marks
from shared.schema.input_check import InputCheck
from shared.schema.messages import describe
from shared.schema.specialise import specialise_all

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MISPLACED = (
    "has x-file or x-picture where it would not be heeded: they belong to strings, which may stand in the "
    "properties of objects and the items of arrays"
)


def _entry_schema() -> Mapping[str, Any]:
    """JSON Schema of one model's table, with the keys of all families."""
    names = list(families.tasks())
    own = {key: schema for family in families.families() for key, schema in family.keys.items()}
    return {
        **HAS_SOURCE,
        "required": ["task"],
        "properties": {
            **SOURCE,
            "task": {"enum": names},
            "tasks": {"type": "array", "items": {"enum": names}},
            **own,
            "queue": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
            "license": TEXT,
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
    }


def _file_schema() -> Mapping[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["models"],
        "properties": {"models": {"type": "object", "additionalProperties": _entry_schema()}},
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
        InputCheck(_file_schema()).check(document, "")
        return [_model(name, entry, path.parent) for name, entry in document["models"].items()]
    except InvalidInput as error:
        raise ConfigurationError(f"the catalog {path} has faults: {error}") from error


def _model(model_id: str, entry: Mapping[str, Any], base: Path) -> Model:
    """Raises InvalidInput."""
    at = f"/models/{model_id}"
    family = families.of_task(entry["task"])
    task = family.tasks[entry["task"]]
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
    own, *others = _input_schemas(family, entry, at).items()
    return Model(
        id=model_id,
        task=entry["task"],
        engine=task.engine,
        source=source(entry, base),
        input_schema=own[1],
        also=dict(others),
        output=task.output,
        queue=entry.get("queue", "default"),
        license=entry.get("license"),
        description=entry.get("description", ""),
        trust_remote_code=trusted,
        options=entry.get("options", {}),
        loras={name: source(lora, base) for name, lora in entry.get("loras", {}).items()},
        controlnet=source(entry["controlnet"], base) if "controlnet" in entry else None,
    )


def _input_schemas(family: Family, entry: Mapping[str, Any], at: str) -> Schemas:
    """The input schema of each of the model's tasks, its own task's first. Raises InvalidInput."""
    task = entry["task"]
    others = [name for name in dict.fromkeys(entry.get("tasks", ())) if name != task]
    together = family.together.get(task, ())
    if unfit := [name for name in others if name not in together]:
        may = f"may do {', '.join(together)} besides" if together else "does nothing besides"
        raise InvalidInput.at(f"{at}/tasks", f"{unfit[0]} is not possible: a model for {task} {may}")
    foreign = {key for each in families.families() if each is not family for key in each.keys}
    if surplus := sorted(foreign & entry.keys()):
        raise InvalidInput.at(f"{at}/{surplus[0]}", f"is not possible: no model for {task} has that")
    if "options" in entry:
        InputCheck(family.options).check(entry["options"], f"{at}/options")
    known = family.input_schemas(task, others)
    return _specialised(family.extend(entry, known, at), entry.get("inputs", {}), f"{at}/inputs")


def _specialised(known: Schemas, inputs: Mapping[str, Any], at: str) -> Schemas:
    try:
        found = specialise_all(known, inputs)
    except InvalidInput as error:
        raise InvalidInput([FieldError(at + each.pointer, each.detail) for each in error.errors]) from None
    for schema in found.values():
        try:
            Draft202012Validator(schema)
        except ValidationError as error:
            place = "/".join(str(part) for part in error.instance_path[1:])
            raise InvalidInput.at(f"{at}/{place}", "is not what JSON Schema allows there") from None
        if lost := list(marks.misplaced(schema)):
            raise InvalidInput.at(at + lost[0], _MISPLACED)
        if unfit := list(_unfit_defaults(schema, at)):
            raise InvalidInput(unfit)
    return found


def _unfit_defaults(schema: Mapping[str, Any], at: str) -> Iterator[FieldError]:
    for name, rule in schema["properties"].items():
        if "default" in rule and not Draft202012Validator(rule).is_valid(rule["default"]):
            yield FieldError(f"{at}/{name}/default", f"must be {describe(rule)}")
