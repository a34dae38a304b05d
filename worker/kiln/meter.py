"""What the device took for a call: how long, and how much of its memory beside what lay there before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from worker.engines.contract.engine import Device


@dataclass(slots=True)
class Peak:
    """Bytes, once the block that measured them has ended."""

    nbytes: int = 0


def settle(device: Device) -> None:
    """Wait until the device has computed what it was given."""
    if device.name.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device.name)
    elif device.name == "mps":
        import torch

        torch.mps.synchronize()


@contextmanager
def peak_memory(device: Device) -> Iterator[Peak]:
    """Measure what this thread computes inside the block.

    A GPU's allocator knows its peak; what is left at the end does not count, be it weights that came for the
    call or its answer. Elsewhere every tensor that is made is counted while it lives, which
    leaves out what the libraries use inside one operation, and makes the call slower."""
    peak = Peak()
    if device.name.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device.name)
        yield peak
        peak.nbytes = torch.cuda.max_memory_allocated(device.name) - torch.cuda.memory_allocated(device.name)
    else:
        from worker.kiln.counter import Counter  # whoever computes without torch need not load it

        with Counter() as counter:
            yield peak
        peak.nbytes = counter.peak
