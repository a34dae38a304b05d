"""A pipeline for one job: the modules of the loaded one, and attributes that are the job's alone."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

#: loaded pipeline → the class of its copies
_classes: WeakKeyDictionary[Any, type] = WeakKeyDictionary()


def own_copy(pipe: Any, scheduler: Any) -> Any:
    """A copy with this scheduler. ``pipe`` stays where it is: its copies remember which device that is.

    The library looks for the device through all the modules of all parts whenever a pipeline is called, which
    took a small model a twentieth of a job, and no other job could share that time."""
    if pipe not in _classes:
        cls, device = type(pipe), getattr(pipe, "_execution_device", None)
        known = {} if device is None else {"_execution_device": device}
        _classes[pipe] = type(cls.__name__, (cls,), {**known, "__module__": cls.__module__})
    own = copy.copy(pipe)
    own.__class__ = _classes[pipe]
    own.scheduler = scheduler
    return own
