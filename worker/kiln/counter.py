"""Counts the memory of tensors while they live, for devices whose allocator does not."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Counter(TorchDispatchMode):
    """As a context, counts what this thread's operations make; at most ``peak`` bytes of it lived at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would load its whole compiler to keep it away from this class, which takes seconds while
        jobs wait; under a mode like this one it compiles nothing anyway."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        # a view has the storage of what it is a view of
        given = {_id(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and _id(each) not in given | self._known:
                self._count(each.untyped_storage())
        return made

    def _count(self, storage: UntypedStorage) -> None:
        key, nbytes = storage._cdata, storage.nbytes()
        self._known.add(key)
        self._live += nbytes
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._freed, key, nbytes)

    def _freed(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self._live -= nbytes


def _id(tensor: Tensor) -> int:
    """Equal for tensors of one storage, while it lives."""
    return int(tensor.untyped_storage()._cdata)
