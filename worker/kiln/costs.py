"""What a call costs by the number of rows in it, and how many jobs it pays to compute together. Pure.

Computing ``n`` of ``N`` waiting jobs at a time makes the mean of their times

    (N + n) / 2 · t(n) / n          with t(n), the seconds of a step for n jobs,

because the jobs end in N/n groups, one after the other. ``n`` is chosen so that this is least: one after the
other where a step underuses nothing, however many wait; all together where rows cost little.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

#: rows in one call where nothing says less
MOST_ROWS = 32
#: so many rows are tried even where two gained nothing: libraries compute one row in ways of its own
_TRIED = 4
#: beyond, a row must cost no more than this part of what it cost in smaller sizes
_CHEAPER = 0.95


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a call by rows, as measured; nothing known allows as many as there are."""

    seconds: Mapping[int, float] = field(default_factory=dict, hash=False)
    #: whether times are measured at all
    measured: bool = False
    #: what the memory holds
    most: int = MOST_ROWS
    #: look at the next larger size, should it have been misjudged
    retry: bool = False

    def together(self, rows: Sequence[int], behind: int = 0) -> int:
        """How many of the waiting jobs to compute as one, given the rows of each in order; at least one.

        ``behind``: how many more wait for these to end, so that throughput counts more than order."""
        totals = [total for total in accumulate(rows) if total <= self.most] or [rows[0]]
        if not self.measured:
            return len(totals)
        waiting = len(rows) + behind
        best, least = 1, float("inf")
        for count, total in enumerate(totals, 1):
            seconds = self.expect(total)
            if seconds is None:
                break
            mean = (waiting + count) * seconds / count
            if mean <= least:
                best, least = count, mean
        return min(2 * best, len(totals)) if self.retry else best

    def expect(self, rows: int) -> float | None:
        """Seconds for so many rows. Sizes in between are interpolated. One that is larger than all that were
        measured, twice as large at most, is hoped to cost no more while rows still got cheaper, so that it is
        tried; else it goes on as the last two did. None: measure smaller ones first."""
        if not self.seconds:
            return None
        known = sorted(self.seconds)
        if rows in self.seconds:
            return self.seconds[rows]
        if rows < known[0] or rows > 2 * known[-1]:
            return None
        if rows > known[-1]:
            last, before = known[-1], known[-2] if len(known) > 1 else known[-1]
            return self.seconds[last] if self._promises(known) else self._line(before, last, rows)
        above = known[bisect_left(known, rows)]
        return self._line(known[bisect_left(known, rows) - 1], above, rows)

    def _promises(self, known: Sequence[int]) -> bool:
        """Whether more rows than were measured, in order, may be cheaper still."""
        each = [self.seconds[rows] / rows for rows in known]
        return known[-1] < _TRIED or each[-1] < _CHEAPER * min(each[:-1], default=each[-1])

    def _line(self, a: int, b: int, rows: int) -> float:
        slope = 0.0 if a == b else max(0.0, (self.seconds[b] - self.seconds[a]) / (b - a))
        return self.seconds[b] + slope * (rows - b)
