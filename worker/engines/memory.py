"""Torch's ways to say "out of memory" become ours, here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shared.errors import OutOfMemory


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Raise OutOfMemory, saying what was being done, for any allocation that fails inside the block."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(f"out of memory while {doing}; ask for less or use a larger device") from error
    except RuntimeError as error:  # torch.OutOfMemoryError is one, and CPU allocations raise it plainly
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
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
