"""How a loaded pipeline lies on its device: the layout of its tensors, and compiled forwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from worker.engines.contract.engine import Device

#: set on a module whose forward is compiled: each new number of rows is compiled anew, so they are few
COMPILED = "_qanvas_compiled"


def arrange(pipe: Any, device: Device, options: Mapping[str, Any]) -> None:
    """Follow ``options.channels_last`` and ``options.compile`` of a catalog entry; before any patch.

    Channels come last where that is not said on GPUs in half precision: their convolutions want it so. On a
    CPU it helps some models and hurts others. Compiling takes minutes at a model's first jobs, so nothing
    is compiled that nobody asked for; ``compile`` may name one of torch's backends."""
    halves = device.name.startswith("cuda") and options.get("dtype", device.dtype) != "float32"
    if options.get("channels_last", halves):
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module) and _is_flat(part):
                last: Any = part
                last.to(memory_format=torch.channels_last)  # its types forget that modules take it
    if backend := options.get("compile"):
        how: dict[str, Any] = {"backend": backend} if isinstance(backend, str) else {}
        for name in ("unet", "transformer", "transformer_2"):
            if (module := pipe.components.get(name)) is not None:
                vars(module)["forward"] = torch.compile(module.forward, **how)
                vars(module)[COMPILED] = True


def _is_flat(module: torch.nn.Module) -> bool:
    """Whether it convolves pictures, and no videos: the layout is for four dimensions."""
    dimensions = {parameter.ndim for parameter in module.parameters()}
    return 4 in dimensions and 5 not in dimensions
