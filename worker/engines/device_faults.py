"""Errors after which a device computes nothing more in this process become ours, here and nowhere else.

CUDA calls them sticky: every later call of the process returns the same error, and only a new process can
use the device again (CUDA Runtime API, "Data types", ``cudaError``). HIP has the same ones. Running out of
memory is none of them, nor is a call with wrong arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from shared.errors import DeviceFault

_SAID = (
    # CUDA's and HIP's own words, of ``cudaGetErrorString``
    r"device-side assert triggered",
    r"an illegal memory access was encountered",
    r"an illegal instruction was encountered",
    r"misaligned address",
    r"operation not supported on global/shared address space",
    r"invalid program counter",
    r"hardware stack error",
    r"unspecified launch failure",
    r"the launch timed out and was terminated",
    r"context is destroyed",
    r"uncorrectable (?:ECC|NVLink) error",
    r"Invalid access of peer GPU memory",
    r"(?:CUDA|HIP)[- ]capable devices?(?:\(s\))? (?:is/are|are) busy or unavailable",
    r"no (?:CUDA|ROCm)-capable device is detected",
    r"(?:CUDA|HIP)(?: driver)? error: (?:unknown error|driver shutting down|initialization error)",
    # its libraries', which fail so once the device has
    r"(?:CU|HIP|ROC)BLAS_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR|NOT_INITIALIZED)",
    r"(?:CUDNN_STATUS|miopenStatus)_?(?:EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR|UnknownError)",
    r"CUFFT_(?:EXEC_FAILED|INTERNAL_ERROR)",
    # the driver's and the kernel's, Intel's, and Metal's
    r"GPU is lost",
    r"fallen off the bus",
    r"\bXid\b",
    r"device[_ ](?:is )?lost",
    r"kIOGPUCommandBufferCallbackError(?!OutOfMemory)\w+",
    r"IOGPUCommandBufferCallbackErrorDeviceRemoved",
)
_STICKY = re.compile("|".join(_SAID), re.IGNORECASE)


def device_fault(error: BaseException) -> DeviceFault | None:
    """The fault of the device that an error tells of, whatever it was wrapped in, if it tells of one."""
    for one in _chain(error):
        if isinstance(one, DeviceFault):
            return one
        # ``torch.AcceleratorError`` is a RuntimeError, and so are those of Triton and the extensions
        if isinstance(one, RuntimeError) and (said := _STICKY.search(str(one))):
            return DeviceFault(said.group())
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those while which it was raised."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
