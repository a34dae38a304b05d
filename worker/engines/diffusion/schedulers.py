"""A scheduler for each job: a copy of the model's own, or another that fits the model."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from shared.errors import JobError


def scheduler_name(scheduler: Any) -> str:
    """The name users give: the class's without its suffixes, as ``EulerAncestral`` or ``DDIM``."""
    cls = scheduler if inspect.isclass(scheduler) else type(scheduler)
    return str(cls.__name__.removesuffix("Scheduler").removesuffix("Discrete"))


def make_scheduler(own: Any, name: str | None) -> Any:
    """A fresh scheduler that no other job shares.

    ``name`` is one of the compatible classes', in any case, with or without ``-``, ``Discrete`` and
    ``Scheduler``; None, ``default`` or the own one's name is a copy of the model's own. Raises JobError
    naming those that fit.
    """
    if name in (None, "", "default") or _plain(name) == _plain(scheduler_name(own)):
        return copy.deepcopy(own)
    fitting = {_plain(scheduler_name(cls)): cls for cls in own.compatibles if "Flax" not in cls.__name__}
    cls = fitting.get(_plain(name))
    if cls is None:
        names = sorted({scheduler_name(each) for each in fitting.values()} | {scheduler_name(own)})
        raise JobError(
            f"scheduler {name!r} does not fit this model; use one of {', '.join(names)}", type="invalid-input"
        )
    try:
        return cls.from_config(own.config)
    except ImportError as error:  # some need scipy or torchsde
        raise JobError(f"scheduler {name!r}: {error}", type="invalid-input") from error


def _plain(name: str) -> str:
    letters = "".join(letter for letter in name.lower() if letter.isalnum())
    return letters.removesuffix("scheduler").removesuffix("discrete")
