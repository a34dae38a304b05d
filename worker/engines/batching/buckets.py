"""Few numbers of rows instead of many, for forwards that are compiled for each. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def bucket(rows: int) -> int:
    """The least power of two that holds so many rows."""
    return 1 << (rows - 1).bit_length()


def fillers(rows: Sequence[int]) -> list[int]:
    """Which calls to compute once more, by index, so that all rows together fill a bucket.

    ``rows`` of each call, at least one. The smallest call fills; where it does not go into the gap evenly,
    the rest of the gap stays."""
    gap = bucket(sum(rows)) - sum(rows)
    smallest = min(range(len(rows)), key=rows.__getitem__)
    return [smallest] * (gap // rows[smallest])
