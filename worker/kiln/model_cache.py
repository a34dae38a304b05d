"""Which models stay loaded: an account of bytes against a budget. Pure: no I/O, no torch.

The loaded objects pass through as they are; loading and freeing them is the kiln's work.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Resident:
    """A loaded model: ``users`` jobs run with it now, and while there are any it is not evicted."""

    key: str
    #: what people call it
    name: str
    loaded: Any
    nbytes: int
    users: int = 0


class ModelCache:
    """Models by key, least recently used first. Only the engine thread changes it."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._residents: OrderedDict[str, Resident] = OrderedDict()

    @property
    def used(self) -> int:
        """Bytes of all resident models."""
        return sum(resident.nbytes for resident in list(self._residents.values()))

    @property
    def pinned(self) -> int:
        """Bytes of the models that jobs run with now."""
        return sum(resident.nbytes for resident in self._residents.values() if resident.users)

    @property
    def running(self) -> tuple[str, ...]:
        """Keys of the models that jobs run with now."""
        return tuple(resident.key for resident in self._residents.values() if resident.users)

    def room_for(self, nbytes: int, peak: int, *, beside: bool) -> int | None:
        """Down to how many bytes idle models must leave before a model of so many is loaded, where a job
        takes ``peak`` bytes besides. None: not now, while others run ``beside`` which it does not fit.

        Where nothing runs, one that does not fit at all is still given a try."""
        down_to = self.budget - nbytes - peak
        if beside and self.pinned > down_to:
            return None
        return max(0, down_to)

    def __contains__(self, key: str) -> bool:
        return key in self._residents

    @property
    def names(self) -> tuple[str, ...]:
        """The resident models, most recently used last."""
        return tuple(resident.name for resident in list(self._residents.values()))

    def pin(self, key: str) -> Resident | None:
        """Count one more user of a model and mark it as used now; None when it is not resident."""
        resident = self._residents.get(key)
        if resident is not None:
            self._residents.move_to_end(key)
            resident.users += 1
        return resident

    def unpin(self, key: str) -> None:
        """Count one user less."""
        self._residents[key].users -= 1

    def add(self, key: str, name: str, loaded: Any, nbytes: int) -> Resident:
        """Enter a model that was just loaded, pinned once for the job it was loaded for."""
        self._residents[key] = resident = Resident(key, name, loaded, nbytes, users=1)
        return resident

    def evict_idle(self, down_to: int) -> list[Resident]:
        """Take out idle models, least recently used first, until at most ``down_to`` bytes are in use.

        What is pinned stays, so the result may be above that: a model that runs is never pulled away,
        and one that does not fit the budget alone is still given a try."""
        evicted = []
        used = self.used
        for resident in list(self._residents.values()):
            if used <= down_to:
                break
            if resident.users == 0:
                evicted.append(self._residents.pop(resident.key))
                used -= resident.nbytes
        return evicted
