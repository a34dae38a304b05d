"""Torch's ways to say "out of memory" become ours, here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shared.errors import OutOfMemory

#: of allocations on a CPU; of CUDA and HIP, as in ``torch.AcceleratorError``; of their libraries; of Metal
_SAID = re.compile(
    r"can't allocate memory|(?:CUDA|HIP)(?: driver)? error: out of memory|_STATUS_ALLOC_FAILED"
    r"|MPS backend out of memory|CallbackErrorOutOfMemory"
)


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Raise OutOfMemory, saying what was being done, for any allocation that fails inside the block."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(f"out of memory while {doing}; ask for less or use a larger device") from error
    except RuntimeError as error:  # torch.OutOfMemoryError is one; others raise it plainly
        if type(error).__name__ == "OutOfMemoryError" or _SAID.search(str(error)):
            raise OutOfMemory(f"out of memory while {doing}; ask for less or use a larger device") from error
        raise


def module_bytes(*modules: Any) -> int:
    """Parameters and buffers of torch modules, in bytes; what they share counts once."""
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(tensors.values())
