"""Computes calls, together where that is known to be right, and deals with what goes wrong on the way."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import OutOfMemory
from worker.engines.base import Call, NotShareable
from worker.kiln.costs import MOST_ROWS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gave, or the error that it raised."""

    value: Any = None
    error: Exception | None = None


class Forwards:
    """The calls of one device. Engine thread only; ``counts`` may be read by any."""

    def __init__(self, make_room: Callable[[], bool]) -> None:
        """``make_room`` frees memory where that is possible, and tells whether it was."""
        self._make_room = make_room
        #: (point, layout) → whether together gives what alone does
        self._trusted: dict[tuple[int, Any], bool] = {}
        #: (point, size) → rows at most
        self._ceilings: dict[tuple[int, str | None], int] = {}
        #: forwards: computed; shared: of these, with several jobs in them; calls: what jobs asked for;
        #: alone/REASON: calls that could not share; checks, splits: see below
        self.counts: Counter[str] = Counter()

    def most_rows(self, call: Call) -> int:
        """How many rows the memory is known to hold."""
        return self._ceilings.get(_place(call), MOST_ROWS)

    def forget(self, points: Sequence[object]) -> None:
        """The model of these points is gone."""
        gone = {id(point) for point in points}
        self._trusted = {key: value for key, value in self._trusted.items() if key[0] not in gone}
        self._ceilings = {key: value for key, value in self._ceilings.items() if key[0] not in gone}

    def compute(self, calls: Sequence[Call]) -> list[Answer]:
        """An answer for each, in order. The calls are of one point and have equal keys."""
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
        match self._trusted.get((id(first.point), first.layout)):
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
                self._trusted[id(point), calls[0].layout] = right
                log.log(
                    logging.INFO if right else logging.WARNING,
                    "%s: together %s alone",
                    point.name,
                    "is as" if right else "differs from",
                )
        return answers + (self._compute(calls[2:]) if calls[2:] else [])

    def _together(self, calls: Sequence[Call]) -> list[Answer]:
        try:
            values = calls[0].point.compute(calls)
        except OutOfMemory:
            values = None  # dealt with outside this block: in it, the error still holds what was computed
        except Exception as error:  # noqa: BLE001 - one of them raises it: each shall find out alone
            reason = str(error) if isinstance(error, NotShareable) else type(error).__name__
            self.counts[f"alone/{calls[0].point.name}: {reason}"] += len(calls)
            return [self._alone(call) for call in calls]
        if values is not None:
            self.counts["forwards"] += 1
            self.counts["shared"] += 1
            self.counts["rows"] += sum(call.rows for call in calls)
            return [Answer(value) for value in values]
        if self._make_room():
            return self._together(calls)
        self._lower(calls)
        middle = (len(calls) + 1) // 2
        return self._compute(calls[:middle]) + self._compute(calls[middle:])

    def _lower(self, calls: Sequence[Call]) -> None:
        """So many rows were too many: stay under from now on."""
        total, largest = sum(call.rows for call in calls), max(call.rows for call in calls)
        most = max(largest, total // 2)
        self._ceilings[_place(calls[0])] = most
        self.counts["splits"] += 1
        log.warning("out of memory: %s of %d rows; at most %d from now on", calls[0].point.name, total, most)

    def _alone(self, call: Call) -> Answer:
        answer = self._try_alone(call)
        if isinstance(answer.error, OutOfMemory) and self._make_room():
            answer = self._try_alone(call)
        if isinstance(answer.error, OutOfMemory):
            sizes = f"{call.size or call.point.name}, {call.rows} row(s), alone"
            return Answer(error=OutOfMemory(f"{answer.error} ({sizes})"))
        return answer

    def _try_alone(self, call: Call) -> Answer:
        self.counts["forwards"] += 1
        self.counts["rows"] += call.rows
        try:
            return Answer(call.point.compute([call])[0])
        except OutOfMemory as error:
            return Answer(error=OutOfMemory(error.message))  # a new one: the old one holds what was computed
        except Exception as error:  # noqa: BLE001 - the job that made the call gets it
            return Answer(error=error)


def _place(call: Call) -> tuple[int, str | None]:
    return id(call.point), call.size
