"""Answers: one of several calls taken apart again, and two compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from worker.engines.contract.engine import NotShareable

#: how far numbers may differ when a batch is computed in another size, as a part of the largest of them
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def split(answer: Any, rows: Sequence[int], *, lists: bool = False) -> list[Any]:
    """The part of each call of so many rows. ``lists``: a list in the answer has an entry for each row.

    Raises NotShareable for an answer whose rows cannot be told."""
    total = sum(rows)
    if isinstance(answer, Tensor):
        if answer.ndim == 0 or answer.shape[0] != total:
            raise NotShareable(f"an answer of shape {tuple(answer.shape)} for {total} rows")
        return list(torch.tensor_split(answer, list(accumulate(rows))[:-1]))
    if isinstance(answer, Mapping):  # the libraries' outputs are ordered dicts with attributes
        parts = {name: split(value, rows, lists=lists) for name, value in answer.items()}
        make: Any = type(answer)
        return [make(**{name: part[i] for name, part in parts.items()}) for i in range(len(rows))]
    if lists and isinstance(answer, list):
        if len(answer) != total:
            raise NotShareable(f"an answer of {len(answer)} entries for {total} rows")
        ends = list(accumulate(rows))
        return [answer[end - count : end] for end, count in zip(ends, rows, strict=True)]
    if isinstance(answer, list | tuple):
        each = [split(value, rows, lists=lists) for value in answer]
        return [type(answer)(part[i] for part in each) for i in range(len(rows))]
    if answer is None:
        return [None] * len(rows)
    raise NotShareable(f"an answer that holds a {type(answer).__name__}")


def agree(one: Any, other: Any) -> bool:
    """Whether two answers are of one shape and differ by rounding alone."""
    if isinstance(one, Tensor):
        if not isinstance(other, Tensor) or one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not one.is_floating_point():
            return torch.equal(one, other)
        scale = max(one.abs().max().item(), 1e-6) if one.numel() else 1.0
        return torch.allclose(one, other, rtol=0.0, atol=_TOLERANCE[one.dtype] * scale, equal_nan=True)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(agree(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(agree, one, other))
    return bool(one == other)
