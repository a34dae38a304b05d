"""What the catalog holds before an operator adds anything: starters, trainers and, for drills, fakes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from shared.catalog.entries.family import Family, Starter
from shared.catalog.entries.model import Builtin, Model
from shared.catalog.entries.model import Starter as StarterFolder
from shared.catalog.families import families
from shared.schema.specialise import specialise_all

#: in a starter's folder, what its weights fix: ``inputs`` (as ``specialise_all`` takes it),
#: ``description`` and ``license``
ABOUT = "qanvas.json"


def starters() -> Iterator[Model]:
    """The starters whose weights are here."""
    for family in families():
        for starter in family.starters:
            if (folder := starter_folder(starter.folder)) is not None:
                yield _starter(family, starter, folder)


def trainers() -> Iterator[Model]:
    """One model for each way to train."""
    for family in families():
        for name, training in family.trainings.items():
            schema = training.task.input_schema(name)
            yield Model(
                id=name,
                task=name,
                engine=training.task.engine,
                source=Builtin(),
                input_schema=schema,
                output=training.task.output,
                queue="training",
                license="Apache-2.0",
                description=schema.get("description", schema["title"]),
            )


def without_files() -> Iterator[Model]:
    """Models that families bring, which need no files."""
    for family in families():
        yield from family.models()


def fakes() -> Iterator[Model]:
    """Models that compute nothing, for drills and load tests."""
    for family in families():
        yield from family.fakes()


def starter_folder(name: str) -> Path | None:
    """The folder of a starter that has its weights, else None."""
    package = find_spec("starters")
    for parent in (package.submodule_search_locations or ()) if package is not None else ():
        folder = Path(parent) / name
        if next(folder.rglob("*.safetensors"), None) is not None:
            return folder
    return None


def _starter(family: Family, starter: Starter, folder: Path) -> Model:
    about = json.loads((folder / ABOUT).read_text("utf-8")) if (folder / ABOUT).is_file() else {}
    known = family.input_schemas(starter.task)
    own, *others = specialise_all(known, {**starter.inputs, **about.get("inputs", {})}).items()
    task = family.tasks[starter.task]
    return Model(
        id=starter.id,
        task=starter.task,
        engine=task.engine,
        source=StarterFolder(starter.folder),
        input_schema=own[1],
        also=dict(others),
        output=task.output,
        license=about.get("license", "Apache-2.0"),
        description=about.get("description", "Trained by this project's own trainer."),
    )
