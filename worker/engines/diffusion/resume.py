"""Checkpoints of a denoising loop: a run that was broken off goes on, without computing again what it had.

A pipeline is run again from its beginning, but the calls of its denoiser that came before the checkpoint
answer zeros instead of computing. The callback after the last of those steps puts back what the loop had
then: the latents, the state of the scheduler and of the generators. What the loop made of the zeros is thrown
away, so the picture is bit for bit that of a run that was never broken off.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.engines.batching.call_log import CallLog, NotSaved
from worker.engines.contract.engine import Context

log = logging.getLogger(__name__)

#: seconds between two checkpoints of a job
CHECKPOINT_EVERY = 3.0
#: attributes of a scheduler that are its configuration, or ours
_NOT_STATE = ("_internal_dict", "step")
_TENSORS, _STATE = "state.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A loop after a step, held by reference: schedulers and pipelines make new tensors, and change none."""

    step: int
    latents: Tensor
    scheduler: Mapping[str, Any]
    generators: Sequence[Tensor]
    #: calls of the denoiser up to here
    calls: int

    @classmethod
    def take(
        cls, step: int, latents: Tensor, scheduler: Any, generators: Sequence[torch.Generator], calls: CallLog
    ) -> Snapshot:
        state = _state({name: value for name, value in vars(scheduler).items() if name not in _NOT_STATE})
        states = [generator.get_state() for generator in generators]
        return cls(step, latents, state, states, len(calls.made))

    def writer(self, calls: CallLog) -> Callable[[Path], None]:
        """What writes it into a folder.

        Raises NotSaved for a scheduler that holds more than numbers, tensors and lists of them."""
        if calls.unsaved:
            raise NotSaved(calls.unsaved)
        tensors: dict[str, Tensor] = {}
        state = {
            "step": self.step,
            "calls": calls.made[: self.calls],
            "outlines": calls.outlines,
            "latents": _write(self.latents, tensors),
            "generators": [_write(each, tensors) for each in self.generators],
            "scheduler": {name: _write(value, tensors) for name, value in self.scheduler.items()},
        }
        text = json.dumps(state)

        def write(folder: Path) -> None:
            save_file(tensors, folder / _TENSORS)
            (folder / _STATE).write_text(text)

        return write


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint, read."""

    snapshot: Snapshot
    calls: CallLog

    @classmethod
    def load(cls, folder: Path) -> Saved:
        """Raises OSError, ValueError or KeyError for a folder that holds none."""
        state = json.loads((folder / _STATE).read_text())
        tensors = load_file(folder / _TENSORS)
        snapshot = Snapshot(
            state["step"],
            _read(state["latents"], tensors),
            {name: _read(value, tensors) for name, value in state["scheduler"].items()},
            [_read(each, tensors) for each in state["generators"]],
            len(state["calls"]),
        )
        made = [int(each) for each in state["calls"]]
        return cls(snapshot, CallLog(state["outlines"], made, skip=len(made)))

    def put_back(self, scheduler: Any, generators: Sequence[torch.Generator]) -> Tensor:
        """Make scheduler and generators what they were; returns the latents."""
        vars(scheduler).update(_state(self.snapshot.scheduler))
        for generator, state in zip(generators, self.snapshot.generators, strict=True):
            generator.set_state(state)
        return self.snapshot.latents


class Checkpoints:
    """One job's checkpoints: goes on from the one it was given, and leaves others behind."""

    def __init__(self, context: Context, generators: Sequence[torch.Generator]) -> None:
        self._context = context
        self._generators = generators
        self._saved = _load(context.resume)
        self._latest: Snapshot | None = None
        self._written = time.monotonic()
        self.calls = CallLog() if self._saved is None else self._saved.calls

    def after_step(self, pipe: Any, step: int, values: dict[str, Any]) -> bool:
        """Call with the callback's arguments, which may be changed. False for a step that was skipped."""
        saved = self._saved
        if saved is not None and step <= saved.snapshot.step:
            if step < saved.snapshot.step:
                return False
            values["latents"] = saved.put_back(pipe.scheduler, self._generators)
        if (latents := values.get("latents")) is None:
            return True
        self._latest = Snapshot.take(step, latents, pipe.scheduler, self._generators, self.calls)
        if time.monotonic() - self._written >= CHECKPOINT_EVERY:
            self.write()
        return True

    def write(self) -> None:
        """Save where the loop was after its last step, if it was anywhere."""
        if self._latest is None:
            return
        self._written = time.monotonic()
        try:
            write = self._latest.writer(self.calls)
        except NotSaved as error:
            log.info("no checkpoint: it would have to hold %s", error)
        else:
            self._context.checkpoint(write)


def _load(folder: Path | None) -> Saved | None:
    if folder is None:
        return None
    try:
        return Saved.load(folder)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        log.warning("the checkpoint cannot be read, the job starts anew: %s", error)
        return None


def _state(found: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's state that no step of it changes: lists are changed in place, tensors are not."""
    return {name: list(value) if isinstance(value, list) else value for name, value in found.items()}


def _write(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; tensors go by number into ``tensors``, with the device they were on."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Tensor():
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {"tensor": name, "device": str(value.device)}
        case np.ndarray():
            return {"array": _write(torch.from_numpy(value.copy()), tensors)}
        case np.generic():
            return {"number": value.item(), "dtype": str(value.dtype)}
        case list() | tuple():
            return {type(value).__name__: [_write(each, tensors) for each in value]}
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
    raise NotSaved(f"a {type(value).__name__}")


def _read(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case {"tensor": name, "device": device}:
            return tensors[name].to(device)
        case {"array": array}:
            return _read(array, tensors).numpy()
        case {"number": number, "dtype": dtype}:
            return np.dtype(dtype).type(number)
        case {"list": values}:
            return [_read(each, tensors) for each in values]
        case {"tuple": values}:
            return tuple(_read(each, tensors) for each in values)
        case {"dtype": name}:
            return getattr(torch, name)
    return value
