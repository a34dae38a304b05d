"""What calls were measured to cost, in time and memory, by model, size and rows; remembered on disk.

Nothing is computed for the measurement's sake: each size is measured by the first jobs that need it, and as
long as it is unknown whether more rows pay, they are tried a few times.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from worker.kiln.costs import Costs
from worker.kiln.peaks import Peaks

log = logging.getLogger(__name__)

#: measurements of a size that are kept, and how many it takes to believe them
_KEPT, _ENOUGH = 9, 3
#: after so many calls a larger size is tried again, and a known one measured again
_AGAIN = 64
#: seconds between two writes of a model's file, at least
_SAVE_EVERY = 10.0


@dataclass(slots=True)
class _Size:
    """Seconds by rows, the latest last."""

    seconds: dict[int, deque[float]] = field(default_factory=dict)
    calls: int = 0
    #: made anew when something was measured
    believed: Mapping[int, float] = field(default_factory=dict)
    peaks: Peaks = field(default_factory=Peaks)

    def note(self, rows: int, seconds: float) -> None:
        if rows in self.seconds:
            self.seconds[rows].append(seconds)
            self.believe()
        else:
            self.admit(rows)  # the first call also makes plans and buffers: left out

    def measures(self, rows: int) -> bool:
        """Whether this size is one to measure, as none lies near: a few that are measured often tell more
        than many that each met the machine in another mood."""
        apart = all(rows >= 2 * known or known >= 2 * rows for known in self.seconds)
        return apart or rows in self.seconds

    def admit(self, rows: int) -> None:
        """Measure this size from now on, if it is one to measure."""
        if self.measures(rows):
            self.seconds.setdefault(rows, deque(maxlen=_KEPT))

    def believe(self) -> None:
        """What else the machine does only adds to a call's time, so the least that was seen is what it costs;
        and fewer rows never cost more than more of them."""
        least, believed = float("inf"), {}
        for rows in sorted(self.seconds, reverse=True):
            if len(kept := self.seconds[rows]) >= _ENOUGH:
                believed[rows] = least = min(least, *kept)
        self.believed = believed


class CostProfiles:
    """Measurements of one device. Engine thread only."""

    def __init__(self, folder: Path | None, device: str) -> None:
        """``folder`` keeps them, if there is one; ``device`` tells it from others, number format included."""
        self._folder = folder
        self._device = device
        self._models: dict[str, dict[str, _Size]] = {}
        self._saved: dict[str, float] = {}

    def costs(self, model: str, size: str | None, most: int, free: int | None = None) -> Costs:
        """What is known of a size of a model's calls; ``most`` rows at once, and no more than are expected to
        fit into ``free`` bytes."""
        if size is None:
            return Costs(most=most)
        known = self._size(model, size)
        fits = most if free is None else known.peaks.rows_within(free, most)
        return Costs(known.believed, measured=True, most=fits, retry=known.calls % _AGAIN == _AGAIN - 1)

    def peak(self, model: str, size: str | None = None, rows: int = 1) -> int:
        """Bytes beside the weights that a call is expected to take; without ``size`` what the model's largest
        call takes alone. 0 while nothing is known."""
        if size is None:
            return max((size.peaks.least for size in self._sizes(model).values()), default=0)
        return self._size(model, size).peaks.expect(rows)

    def lacks_peak(self, model: str, size: str, rows: int) -> bool:
        """Whether the memory that such a call takes is to be measured."""
        return rows not in self._size(model, size).peaks.measured

    def note_peak(self, model: str, size: str, rows: int, nbytes: int) -> None:
        """What such a call took. It was the first of its kind, whose time does not count."""
        known = self._size(model, size)
        known.peaks.note(rows, nbytes)
        known.admit(rows)

    def wants(self, model: str, size: str, rows: int) -> bool:
        """Whether the next such call is to be measured."""
        known = self._size(model, size)
        due = len(known.seconds.get(rows, ())) < _KEPT or known.calls % _AGAIN == 0
        return due and known.measures(rows)

    def note(self, model: str, size: str, rows: int, seconds: float | None) -> None:
        """A call was computed; ``seconds`` where it was measured."""
        known = self._size(model, size)
        known.calls += 1
        if seconds is not None:
            known.note(rows, seconds)

    def save(self, model: str) -> None:
        """Write what is known of a model, unless that was done just now."""
        if self._folder is None or model not in self._models:
            return
        now = time.monotonic()
        if now - self._saved.get(model, -_SAVE_EVERY) < _SAVE_EVERY:
            return
        self._saved[model] = now
        sizes = {
            name: {rows: list(kept) for rows, kept in size.seconds.items() if kept}
            for name, size in self._models[model].items()
        }
        peaks = {name: size.peaks.measured for name, size in self._models[model].items()}
        known = {"model": model, "device": self._device, "seconds": sizes, "peaks": peaks}
        path = self._path(self._folder, model)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            new.write_text(json.dumps(known, indent=1))
            new.replace(path)
        except OSError as error:
            log.warning("what calls cost is not remembered: %s", error)

    def _size(self, model: str, size: str) -> _Size:
        return self._sizes(model).setdefault(size, _Size())

    def _sizes(self, model: str) -> dict[str, _Size]:
        if model not in self._models:
            self._models[model] = self._load(model)
        return self._models[model]

    def _load(self, model: str) -> dict[str, _Size]:
        found: dict[str, _Size] = {}
        if self._folder is None:
            return found
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or not one of ours
            saved = json.loads(self._path(self._folder, model).read_text())
            peaks = saved.get("peaks", {})  # files of earlier versions have none
            for name, seconds in saved["seconds"].items():
                size = _Size({int(rows): deque(kept, _KEPT) for rows, kept in seconds.items()})
                size.peaks = Peaks({int(rows): int(most) for rows, most in peaks.get(name, {}).items()})
                size.believe()
                found[name] = size
        return found

    def _path(self, folder: Path, model: str) -> Path:
        name = hashlib.sha256(f"{model}\0{self._device}".encode()).hexdigest()[:20]
        return folder / f"{name}.json"
