"""Which device computes, in which number format, and how much of its memory models may keep."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from shared.errors import ConfigurationError
from worker.engines.contract.engine import Device

#: the part of the device's memory that models may keep when the operator does not say; what is left is
#: for activations, and on a CPU for the rest of the machine
_KEEP_ON_GPU, _KEEP_ON_CPU = 0.8, 0.5


def find_device(name: str) -> Device:
    """The device that ``QANVAS_DEVICE`` names: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises ConfigurationError when it is not there. ``cpu`` is answered without loading torch.
    """
    if name == "cpu":
        return Device("cpu", "float32")
    import torch

    kind, _, number = name.partition(":")
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cpu" and not number:
        return Device("cpu", "float32")
    if kind == "mps" and not number and torch.backends.mps.is_available():
        return Device("mps", "float16")
    if kind == "cuda" and torch.cuda.is_available():
        index = int(number) if number.isdecimal() else None if number else 0
        if index is not None and index < torch.cuda.device_count():
            # float16 overflows in some transformers where bfloat16 does not; older cards lack bfloat16
            half = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
            return Device(f"cuda:{index}", half)
    have = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    have += ["mps"] if torch.backends.mps.is_available() else []
    raise ConfigurationError(
        f"QANVAS_DEVICE={name!r}: there is no such device; use auto or one of {', '.join([*have, 'cpu'])}"
    )


def each_device() -> list[str]:
    """Every GPU that torch finds, or the one device that ``auto`` means where there is none."""
    import torch

    found = (
        [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return found or [find_device("auto").name]


def memory_budget(device: Device, configured: int) -> int:
    """Bytes that models may keep on the device; ``configured`` as ``QANVAS_MEMORY_BYTES``, 0 for most."""
    if configured:
        return configured
    if device.name.startswith("cuda"):
        import torch

        _, total = torch.cuda.mem_get_info(device.name)
        return int(total * _KEEP_ON_GPU)
    return int(_main_memory() * _KEEP_ON_CPU)


def describe(device: Device) -> str:
    """The device as one tells its speed from that of others."""
    if device.name.startswith("cuda"):
        import torch

        return f"{torch.cuda.get_device_name(device.name)} {device.dtype}"
    return f"{device.name} with {os.cpu_count()} cores {device.dtype}"


def release_memory(device: Device) -> None:
    """Give what evicted models held back to the device."""
    gc.collect()
    if device.name.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
    elif device.name == "mps":
        import torch

        torch.mps.empty_cache()


def _main_memory() -> int:
    """Bytes of main memory that this process may use: the machine's, or less where a container says so."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdecimal() else total


if __name__ == "__main__":  # the command line asks without loading torch itself
    sys.stdout.write("\n".join(each_device()) + "\n")
