"""Many things, so many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")

#: ids in one statement
IDS = 500


def in_chunks(items: Iterable[Item], most: int = IDS) -> Iterator[list[Item]]:
    """The items in order, so many at a time, and the rest. (``itertools.batched`` of Python 3.12.)"""
    left = iter(items)
    while chunk := list(islice(left, most)):
        yield chunk
