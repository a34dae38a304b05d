"""What calls take of the memory beside the model's weights, and how many rows fit into what is free. Pure."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field


@dataclass(slots=True)
class Peaks:
    """Bytes that calls of one size took at most, by rows. They do not grow evenly: libraries compute few
    rows in other ways than many."""

    measured: dict[int, int] = field(default_factory=dict)
    #: the last answer of ``rows_within``, which is asked before every call
    _answered: tuple[int, int, int] | None = None

    def note(self, rows: int, nbytes: int) -> None:
        """So many rows were measured."""
        self.measured[rows] = nbytes
        self._answered = None

    @property
    def least(self) -> int:
        """What a call takes in any case: that of the fewest rows; 0 while nothing is known."""
        return self.measured[min(self.measured)] if self.measured else 0

    def expect(self, rows: int) -> int:
        """Bytes for so many rows; 0 while nothing is known.

        Fewer rows than were ever measured take no more than those; in between is a line; more go on as the
        last two did, or, where there is one, in proportion."""
        if not self.measured or rows in self.measured:
            return self.measured.get(rows, 0)
        known = sorted(self.measured)
        if rows < known[0]:
            return self.measured[known[0]]
        if len(known) == 1:
            return self.measured[known[0]] * rows // known[0]
        upper = min(bisect_left(known, rows), len(known) - 1)
        a, b = known[upper - 1], known[upper]
        slope = max(0.0, (self.measured[b] - self.measured[a]) / (b - a))
        return int(self.measured[b] + slope * (rows - b))

    def rows_within(self, free: int, most: int) -> int:
        """How many rows fit into ``free`` bytes, up to ``most``; 0 where not even one does."""
        if self._answered is None or self._answered[:2] != (free, most):
            fits = next((rows for rows in range(most, 0, -1) if self.expect(rows) <= free), 0)
            self._answered = (free, most, fits)
        return self._answered[2]
