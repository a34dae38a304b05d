"""What the calls of a run answered, by shape, so that a resumed run answers zeros in their place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class NotSaved(Exception):
    """There is a value of a kind that no checkpoint holds; the run goes on without."""


@dataclass(slots=True)
class CallLog:
    """What the denoiser's calls of a run answered, by shape: enough to answer zeros in their place."""

    #: the different answers, as ``_outline`` writes them
    outlines: list[Any] = field(default_factory=list)
    #: for each call so far, which
    made: list[int] = field(default_factory=list)
    #: how many calls are answered with zeros
    skip: int = 0
    #: what an answer held that a checkpoint cannot: then there are none
    unsaved: str = ""
    _taken: int = 0

    def skipped(self) -> Any:
        """Zeros for the next call, or None when it has to be computed."""
        if self._taken >= self.skip:
            return None
        self._taken += 1
        return _zeros(self.outlines[self.made[self._taken - 1]])

    def note(self, answer: Any) -> None:
        """A call was computed."""
        try:
            outline = _outline(answer)
        except NotSaved as error:
            self.unsaved = str(error)
            return
        if outline not in self.outlines:
            self.outlines.append(outline)
        self.made.append(self.outlines.index(outline))


def _outline(answer: Any) -> Any:
    """The shape of an answer as JSON."""
    match answer:
        case Tensor():
            return {
                "shape": list(answer.shape),
                "dtype": str(answer.dtype).removeprefix("torch."),
                "device": str(answer.device),
            }
        case tuple() | list():
            return {type(answer).__name__: [_outline(each) for each in answer]}
        case None:
            return None
    raise NotSaved(f"a {type(answer).__name__} as an answer")


def _zeros(outline: Any) -> Any:
    match outline:
        case {"shape": shape, "dtype": dtype, "device": device}:
            return torch.zeros(shape, dtype=getattr(torch, dtype), device=device)
        case {"tuple": each}:
            return tuple(map(_zeros, each))
        case {"list": each}:
            return list(map(_zeros, each))
    return outline
