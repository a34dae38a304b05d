"""A model for drills and load tests: a picture drawn step by step, and faults on request.

Its picture is a function of prompt, seed, size, number of steps and the picture that it is drawn upon, so
that a run that was killed and went on elsewhere can be compared with one that was not.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.catalog.entries.model import Model
from shared.errors import JobError, OutOfMemory
from worker.engines.contract.engine import (
    Call,
    Context,
    Device,
    Image,
    Progress,
    Result,
    Stopped,
    StopReason,
    Work,
)

#: seconds between two checkpoints
CHECKPOINT_EVERY = 1.0

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Canvas:
    """What is drawn so far: ``step`` steps of ``pixels``, shape (height, width, 3)."""

    pixels: Pixels
    step: int = 0


class FakeEngine:
    """Implements ``Engine``; needs no torch."""

    #: the device has failed, as ordered: nothing is computed in this process any more
    _failed = False

    def load(self, model: Model, folder: Path | None, device: Device) -> None:
        """There is nothing to load. It never returns for a model whose ``options`` say that loading hangs."""
        if model.options.get("load_hangs"):
            _hang()

    def nbytes(self, loaded: None) -> int:
        return 0

    def run(self, loaded: None, work: Work, context: Context) -> Result:
        """Draw. Raises OutOfMemory and JobError where the input orders them."""
        steps = int(work.input["steps"])
        _claim(int(work.input.get("memory") or 0))
        canvas = _load(context.resume) if context.resume is not None else _background(work)
        saved = time.monotonic()
        self._fault(work, canvas.step)
        context.boundary(Progress("draw", canvas.step, steps))
        try:
            while canvas.step < steps:
                self._fault(work, canvas.step + 1)
                canvas = context.share(_call(work, canvas))
                context.boundary(Progress("draw", canvas.step, steps))
                _preview(work, canvas, context)
                if time.monotonic() - saved >= CHECKPOINT_EVERY:
                    _save(canvas, context)
                    saved = time.monotonic()
        except Stopped as stopped:
            if stopped.reason is StopReason.DRAINING:
                _save(canvas, context)
            raise
        return Result(outputs=(Image(pixels=canvas.pixels, metadata=_metadata(work)),))

    def _fault(self, work: Work, step: int) -> None:
        """Fail on reaching this step, as ordered."""
        _fault(work, step)
        self._failed = self._failed or step == work.input.get("poison_at_step")
        if self._failed:  # the words are CUDA's
            raise RuntimeError("CUDA error: device-side assert triggered (ordered by poison_at_step)")


def _fault(work: Work, step: int) -> None:
    """Fail, crash or hang on reaching this step, as ordered."""
    if step == 1 and work.attempt <= (work.input.get("fail_attempts") or 0):
        raise JobError(f"failed in attempt {work.attempt}, as ordered by fail_attempts", retryable=True)
    if step == work.input.get("fail_at_step"):
        raise JobError(f"failed at step {step}, as ordered by fail_at_step")
    if step == work.input.get("crash_at_step"):
        os.kill(os.getpid(), signal.SIGKILL)
    if step == work.input.get("hang_at_step"):
        _hang()


def _hang() -> None:
    threading.Event().wait()


class _Easel:
    """Implements ``Point``: the steps of several jobs take the time of one."""

    name = "draw"

    def compute(self, calls: Sequence[Call]) -> list[_Canvas]:
        """Raises OutOfMemory where one of the jobs orders it for so many."""
        canvases: list[tuple[Work, _Canvas]] = [call.arguments for call in calls]
        for work, _ in canvases:
            most = work.input.get("oom_above")
            if most is not None and len(calls) > most:
                raise OutOfMemory(f"out of memory with {len(calls)} in one step, as ordered by oom_above")
        if seconds := max(_seconds(work) for work, _ in canvases):
            time.sleep(seconds)
        return [_step(work, canvas) for work, canvas in canvases]

    def agree(self, one: _Canvas, other: _Canvas) -> bool:
        return one.step == other.step and np.array_equal(one.pixels, other.pixels)


_EASEL = _Easel()


def _call(work: Work, canvas: _Canvas) -> Call:
    return Call(point=_EASEL, arguments=(work, canvas), key=_seconds(work))


def _seconds(work: Work) -> float:
    return float(work.input.get("step_seconds") or 0.0)


def _step(work: Work, canvas: _Canvas) -> _Canvas:
    """Draw one more patch."""
    number = canvas.step + 1
    pixels = canvas.pixels.copy()
    height, width, _ = pixels.shape
    random = _random(work, number)
    top, left = int(random.integers(height)), int(random.integers(width))
    tall, wide = int(random.integers(1, height // 2 + 2)), int(random.integers(1, width // 2 + 2))
    patch = pixels[top : top + tall, left : left + wide]
    patch[:] = patch // 2 + random.integers(0, 128, 3, dtype=np.uint8)
    return _Canvas(pixels, number)


def _background(work: Work) -> _Canvas:
    """The picture to draw upon, or a blend from one colour above to another below."""
    if (given := work.input.get("image")) is not None:
        return _Canvas(np.array(given))
    height, width = int(work.input["height"]), int(work.input["width"])
    above, below = _random(work, 0).integers(0, 256, (2, 3))
    blend = np.linspace(above, below, height).astype(np.uint8)
    return _Canvas(np.repeat(blend[:, None, :], width, axis=1))


def _random(work: Work, step: int) -> np.random.Generator:
    """Each step has a generator of its own, so that nothing of it needs to be in a checkpoint."""
    text = f"{work.input['prompt']}\0{work.input['seed']}\0{step}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))


def _claim(size: int) -> None:
    """Take so many bytes for a moment."""
    try:
        np.empty(size, np.uint8)
    except MemoryError:
        raise OutOfMemory(f"{size} bytes are more than there are; ask for less memory") from None


def _preview(work: Work, canvas: _Canvas, context: Context) -> None:
    every = int(work.input.get("preview_every") or 0)
    if every and canvas.step % every == 0:
        context.preview(Image(pixels=canvas.pixels))


def _save(canvas: _Canvas, context: Context) -> None:
    def write(folder: Path) -> None:
        np.savez(folder / "canvas.npz", pixels=canvas.pixels, step=canvas.step)

    context.checkpoint(write)


def _load(folder: Path) -> _Canvas:
    with np.load(folder / "canvas.npz") as saved:
        return _Canvas(saved["pixels"], int(saved["step"]))


def _metadata(work: Work) -> dict[str, str]:
    """What makes the picture again."""
    return {name: str(work.input[name]) for name in ("prompt", "seed", "steps", "width", "height")}
