"""What trainers have in common: they keep no model resident, and are told how long to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from shared.catalog.entries.model import Model
from worker.engines.contract.engine import Device
from worker.engines.training.loop import Budget

#: steps of a training whose budget is in minutes
MAX_STEPS = 1_000_000


class NothingResident:
    """Base of the engines that train: a job brings its data and takes its model away."""

    def load(self, model: Model, folder: Path | None, device: Device) -> None:
        return None

    def nbytes(self, loaded: None) -> int:
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is trained and how long; the input of the job, without the data."""

    minutes: float
    #: where given, these count and ``minutes`` do not
    steps: int | None
    learning_rate: float
    seed: int

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Each field is the input of its name. Raises KeyError for a missing one, but for ``steps``."""
        named = {one.name: given[one.name] for one in fields(cls) if one.name != "steps"}
        return cls(steps=given.get("steps"), **named)

    def limits(self) -> Budget:
        """The budget, before a trainer says how its learning rate changes."""
        return Budget(
            steps=self.steps or MAX_STEPS,
            minutes=None if self.steps else self.minutes,
            learning_rate=self.learning_rate,
        )
