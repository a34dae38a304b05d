"""Computes calls, together where that is known to be right, and deals with what goes wrong on the way."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from shared.errors import OutOfMemory
from worker.engines.contract.engine import Call, Device, NotShareable, Point
from worker.kiln.cost_profile import CostProfiles
from worker.kiln.costs import MOST_ROWS, Costs
from worker.kiln.meter import peak_memory, settle

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gave, or the error that it raised."""

    value: Any = None
    error: Exception | None = None


class Room(Protocol):
    """The device's memory, as far as models leave it."""

    @property
    def free(self) -> int:
        """Bytes of the budget beside the loaded models; negative where they take more than it."""

    def make(self, nbytes: int) -> None:
        """Have idle models leave until so many bytes are free, as far as that is possible."""

    def clear(self) -> bool:
        """Have all idle models leave; whether there were any."""


class Forwards:
    """The calls of one device. Engine thread only; ``counts`` may be read by any."""

    def __init__(self, device: Device, room: Room, profiles: CostProfiles | None) -> None:
        """Without ``profiles`` calls share as far as they can."""
        self._device = device
        self._room = room
        self._profiles = profiles
        #: point → layout → whether together gives what alone does
        self._trusted: WeakKeyDictionary[Point, dict[Hashable, bool]] = WeakKeyDictionary()
        #: model and size → rows at most, as it ran out of memory with more; also when it is loaded anew
        self._ceilings: dict[tuple[str, str], int] = {}
        self._model = ""
        #: forwards: computed; shared: of these, with several jobs in them; calls: what jobs asked for;
        #: forwards/POINT: by place; alone/REASON: calls that could not share; checks, splits: see below
        self.counts: Counter[str] = Counter()

    def costs(self, call: Call, model: str) -> Costs:
        """What is known of such calls of a model."""
        most = self._ceilings.get((model, _size(call)), MOST_ROWS)
        if self._profiles is None:
            return Costs(most=most)
        return self._profiles.costs(model, call.size, most, self._room.free)

    def compute(self, calls: Sequence[Call], model: str) -> list[Answer]:
        """An answer for each, in order. The calls are of one point of the model and have equal keys."""
        self._model = model
        self.counts["calls"] += len(calls)
        for call in calls:
            if call.apart:
                self.counts[f"alone/{call.point.name}: {call.apart}"] += 1
        return self._compute(calls)

    def _compute(self, calls: Sequence[Call]) -> list[Answer]:
        if len(calls) == 1:
            return [self._alone(calls[0])]
        first = calls[0]
        if first.layout is None:
            return self._together(calls)
        match self._trusted.get(first.point, {}).get(first.layout):
            case None:
                return self._check(calls)
            case True:
                return self._together(calls)
        self.counts[f"alone/{first.point.name}: together differs from alone"] += len(calls)
        return [self._alone(call) for call in calls]

    def _check(self, calls: Sequence[Call]) -> list[Answer]:
        """The first time that such calls meet: two of them alone and together must agree. They get the
        answers that they had alone."""
        pair, point = list(calls[:2]), calls[0].point
        answers = [self._alone(call) for call in pair]
        if all(answer.error is None for answer in answers):
            self.counts["checks"] += 1
            try:
                both = point.compute(pair)
                right = all(map(point.agree, [answer.value for answer in answers], both))
            except OutOfMemory:
                self._lower(pair)
                right = None
            except Exception as error:  # noqa: BLE001 - whatever it is, they cannot be put together
                log.warning("%s is computed apart for each job: %s", point.name, error)
                right = False
            if right is not None:
                self._trusted.setdefault(point, {})[calls[0].layout] = right
                log.log(
                    logging.INFO if right else logging.WARNING,
                    "%s: together %s alone",
                    point.name,
                    "is as" if right else "differs from",
                )
        return answers + (self._compute(calls[2:]) if calls[2:] else [])

    def _together(self, calls: Sequence[Call]) -> list[Answer]:
        try:
            values = self._measured(calls)
        except OutOfMemory:
            values = None  # dealt with outside this block: in it, the error still holds what was computed
        except Exception as error:  # noqa: BLE001 - one of them raises it: each shall find out alone
            reason = str(error) if isinstance(error, NotShareable) else type(error).__name__
            self.counts[f"alone/{calls[0].point.name}: {reason}"] += len(calls)
            return [self._alone(call) for call in calls]
        if values is not None:
            self._count(calls)
            self.counts["shared"] += 1
            return [Answer(value) for value in values]
        if self._room.clear():
            return self._together(calls)
        self._lower(calls)
        middle = (len(calls) + 1) // 2
        return self._compute(calls[:middle]) + self._compute(calls[middle:])

    def _measured(self, calls: Sequence[Call]) -> Sequence[Any]:
        """The answers, with a look at the memory or the clock where more needs to be known."""
        point, size, rows = calls[0].point, calls[0].size, sum(call.rows for call in calls)
        if self._profiles is None or size is None:
            return point.compute(calls)
        if (expected := self._profiles.peak(self._model, size, rows)) > self._room.free:
            self._room.make(expected)
        # counting may make the libraries choose other ways to compute: what shall be exact is not counted
        if self._profiles.lacks_peak(self._model, size, rows) and not calls[0].apart:
            with peak_memory(self._device) as peak:
                values = point.compute(calls)
            self._profiles.note_peak(self._model, size, rows, peak.nbytes)
            return values
        wanted = self._profiles.wants(self._model, size, rows)
        if wanted:
            settle(self._device)
        began = time.perf_counter()
        values = point.compute(calls)
        if wanted:
            settle(self._device)
        self._profiles.note(self._model, size, rows, time.perf_counter() - began if wanted else None)
        return values

    def _count(self, calls: Sequence[Call]) -> None:
        self.counts["forwards"] += 1
        self.counts[f"forwards/{calls[0].point.name}"] += 1
        self.counts["rows"] += sum(call.rows for call in calls)

    def _lower(self, calls: Sequence[Call]) -> None:
        """So many rows were too many: stay under from now on."""
        total, largest = sum(call.rows for call in calls), max(call.rows for call in calls)
        most = max(largest, total // 2)
        self._ceilings[self._model, _size(calls[0])] = most
        self.counts["splits"] += 1
        log.warning("out of memory: %s of %d rows; at most %d from now on", calls[0].point.name, total, most)

    def _alone(self, call: Call) -> Answer:
        answer = self._try_alone(call)
        if not call.repeatable:
            return answer
        if isinstance(answer.error, OutOfMemory) and self._room.clear():
            answer = self._try_alone(call)
        if isinstance(answer.error, OutOfMemory):
            sizes = f"{_size(call)}, {call.rows} row(s), alone"
            return Answer(error=OutOfMemory(f"{answer.error} ({sizes})"))
        return answer

    def _try_alone(self, call: Call) -> Answer:
        self._count([call])
        try:
            return Answer(self._measured([call])[0])
        except OutOfMemory as error:
            return Answer(error=OutOfMemory(error.message))  # a new one: the old one holds what was computed
        except Exception as error:  # noqa: BLE001 - the job that made the call gets it
            return Answer(error=error)


def _size(call: Call) -> str:
    """What calls have in common that take equally much for equal rows."""
    return call.size or call.point.name
