"""The families of models there are. General code asks them by task or by engine, and names none.

A package adds one by an entry point of the group ``qanvas.families`` that leads to a ``Family``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from shared.catalog.entries.family import Family, HubFiles, Task, Training
from shared.catalog.families import fake, gan, language
from shared.catalog.families.diffusion import FAMILY as DIFFUSION
from shared.errors import ConfigurationError

GROUP = "qanvas.families"
_BUILT_IN = (DIFFUSION, gan.FAMILY, language.FAMILY, fake.FAMILY)


@cache
def families() -> tuple[Family, ...]:
    """The built-in families, then those of installed packages, by the name of the entry point.

    Raises ConfigurationError naming the package whose family cannot be used, and why."""
    found = list(_BUILT_IN)
    for point in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        family = _load(point)
        for known in found:
            _refuse_twins(point, family, known)
        found.append(family)
    return tuple(found)


def tasks() -> Mapping[str, Task]:
    """What models can do, by name, of all families."""
    return {name: task for family in families() for name, task in family.tasks.items()}


def trainings() -> Mapping[str, Training]:
    """The ways to train, by name, of all families."""
    return {name: training for family in families() for name, training in family.trainings.items()}


def of_task(task: str) -> Family:
    """Raises KeyError."""
    for family in families():
        if task in family.tasks or task in family.trainings:
            return family
    raise KeyError(task)


def engines() -> Mapping[str, str]:
    """``module:Class`` of each engine and trainer, by the key that models keep."""
    return {key: place for family in families() for key, place in family.engines.items()}


def hub_files(engine: str) -> HubFiles:
    """What a model of this engine needs of a repository; where no family has it, all of the top folder."""
    return next((family.hub for family in families() if engine in family.engines), HubFiles())


def _load(point: EntryPoint) -> Family:
    try:
        found = point.load()
    except Exception as error:
        raise _fault(point, f"cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, Family):
        raise _fault(point, f"leads to a {type(found).__name__}, not to a qanvas Family")
    return found


def _refuse_twins(point: EntryPoint, family: Family, known: Family) -> None:
    """Raise ConfigurationError where a family calls something as another one does."""
    for what, names, taken in (
        ("family", {family.name}, {known.name}),
        ("task", {*family.tasks, *family.trainings}, {*known.tasks, *known.trainings}),
        ("engine", set(family.engines), set(known.engines)),
        ("catalog key", set(family.keys), set(known.keys)),
    ):
        if twins := sorted(names & taken):
            raise _fault(point, f"has the {what} {twins[0]!r}, which the family {known.name!r} has already")


def _fault(point: EntryPoint, reason: str) -> ConfigurationError:
    package = point.dist.name if point.dist is not None else point.value
    return ConfigurationError(
        f"the package {package} adds a family of models ({GROUP}: {point.name} = {point.value}) that "
        f"{reason}; mend it, or uninstall the package"
    )
