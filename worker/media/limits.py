"""How much decoding what users send may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one task may take before its child is ended."""

    #: of time, and of computing
    seconds: float
    #: bytes of address space, libraries included; macOS does not enforce it
    memory: int
    #: bytes of the largest file that is written
    file: int
    #: whether the process that forked the decoder is kept for the next task
    reused: bool = False


#: pixels of the largest picture, about 150 MB decoded
MOST_PIXELS = 50_000_000

#: a photograph of 50 million pixels takes a second or two, and five copies of it a gigabyte
PICTURE = Limits(seconds=30.0, memory=2 << 30, file=4 * MOST_PIXELS, reused=True)

#: a dataset is read once for each attempt of a training, beside which half an hour is little
DATASET = Limits(seconds=1800.0, memory=4 << 30, file=8 << 30)
