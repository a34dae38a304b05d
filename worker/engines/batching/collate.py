"""The kinds of arguments there are when calls are put together: how each is described, and how joined.

``describe`` is what must be equal in two calls that shall be one; ``join`` makes the argument of that one.
Both raise NotShareable for a value that is not of the kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from worker.engines.contract.engine import NotShareable


class Kind(Protocol):
    def describe(self, value: Any, rows: int) -> Hashable:
        """What two calls must have in common, rows aside."""

    def join(self, values: Sequence[Any], rows: Sequence[int]) -> Any:
        """One argument for calls of so many rows each, whose descriptions are equal."""


class Stacked:
    """Tensors with a row along their first dimension for each row of the call, alone or in containers."""

    def describe(self, value: Any, rows: int) -> Hashable:
        def one(tensor: Tensor) -> Hashable:
            if tensor.ndim == 0 or tensor.shape[0] != rows:
                raise NotShareable(f"a tensor of shape {tuple(tensor.shape)} where there are {rows} rows")
            return (tensor.shape[1:], tensor.dtype, tensor.device)

        return described(value, one)

    def join(self, values: Sequence[Any], rows: Sequence[int]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            return torch.cat(list(values))
        if isinstance(first, Mapping):
            return {name: self.join([value[name] for value in values], rows) for name in first}
        if isinstance(first, list | tuple):
            return type(first)(self.join(parts, rows) for parts in zip(*values, strict=True))
        return first  # no tensor: equal in all calls


class EachRow(Stacked):
    """Stacked, where one number may stand for all rows of a call, as a timestep does."""

    def describe(self, value: Any, rows: int) -> Hashable:
        if isinstance(value, Tensor) and value.numel() == 1 and value.ndim <= 1:
            return (torch.Size(), value.dtype, value.device)
        return super().describe(value, rows)

    def join(self, values: Sequence[Any], rows: Sequence[int]) -> Any:
        if not isinstance(values[0], Tensor):
            return values[0]
        return torch.cat(
            [
                value.reshape(1).expand(count) if value.numel() == 1 and value.ndim <= 1 else value
                for value, count in zip(values, rows, strict=True)
            ]
        )


class Shared:
    """Tensors that stand for all rows, as positions do: calls share when they hold the same numbers."""

    def __init__(self) -> None:
        self._known: Any = WeakTensorKeyDictionary()

    def describe(self, value: Any, rows: int) -> Hashable:
        return described(value, self._content)

    def join(self, values: Sequence[Any], rows: Sequence[int]) -> Any:
        return values[0]

    def _content(self, tensor: Tensor) -> Hashable:
        """A digest. A pipeline passes the same tensor at every step: it is read once."""
        version, digest = self._known.get(tensor, (None, b""))
        if version != tensor._version:
            data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy()
            digest = hashlib.blake2b(data.data, digest_size=16).digest()
            self._known[tensor] = (tensor._version, digest)
        return (tensor.shape, tensor.dtype, tensor.device, digest)


class Listed:
    """A list with an entry for each row. ``ragged``: the entries' first dimension may differ."""

    def __init__(self, *, ragged: bool = False) -> None:
        self._skip = int(ragged)

    def describe(self, value: Any, rows: int) -> Hashable:
        if value is None:
            return None
        if not isinstance(value, list | tuple) or len(value) != rows:
            raise NotShareable(f"no list of {rows} entries, one for each row")

        def one(tensor: Tensor) -> Hashable:
            return (tensor.ndim, tensor.shape[self._skip :], tensor.dtype, tensor.device)

        kinds = {described(entry, one) for entry in value}
        if len(kinds) != 1:
            raise NotShareable("entries of different shapes")
        return kinds.pop()

    def join(self, values: Sequence[Any], rows: Sequence[int]) -> Any:
        return None if values[0] is None else [entry for value in values for entry in value]


class Ignored:
    """What the method takes and does not use."""

    def describe(self, value: Any, rows: int) -> Hashable:
        return None

    def join(self, values: Sequence[Any], rows: Sequence[int]) -> Any:
        return None


class Plain:
    """Whatever nobody declared: no tensors, and equal in all calls."""

    def describe(self, value: Any, rows: int) -> Hashable:
        def tensor(found: Tensor) -> Hashable:
            raise NotShareable(f"a tensor of shape {tuple(found.shape)} that is not declared")

        return described(value, tensor)

    def join(self, values: Sequence[Any], rows: Sequence[int]) -> Any:
        return values[0]


def described(value: Any, tensor: Callable[[Tensor], Hashable]) -> Hashable:
    """Containers and plain values as something to compare; ``tensor`` describes the tensors in them."""
    match value:
        case Tensor():
            return tensor(value)
        case None | bool() | int() | float() | str() | torch.dtype():
            return value
        case dict():
            return tuple((name, described(part, tensor)) for name, part in sorted(value.items()))
        case list() | tuple():
            return (type(value), *(described(part, tensor) for part in value))
    raise NotShareable(f"a {type(value).__name__}, which cannot be compared")
