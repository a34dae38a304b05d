"""Where a pipeline's weights lie: on the device, or in main memory with parts that come when they are used.

Models that fit the budget move to the device. Of larger ones either whole parts take turns there (``model``),
or single layers do (``group``: the library's group offloading). The library's ``enable_model_cpu_offload``
moves parts in the order in which one job uses them, and hooks them anew when that job ends; here jobs are at
different places at once, so parts come when they are called, and leave when another needs the room.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from diffusers.hooks.group_offloading import apply_group_offloading

from shared.errors import ModelUnavailable
from worker.engines.contract.engine import Device
from worker.engines.memory import module_bytes

#: ``options.offload`` of a catalog entry; where it says nothing, the size decides
OFFLOADS = ("none", "model", "group")
#: the part that stays on the device: it is small, and previews and masks look into it
_STAYS = "vae"


def choose(sizes: Mapping[str, int], budget: int) -> str:
    """What fits ``budget`` bytes: all of the parts, each of them alone, or only their layers. Pure."""
    if sum(sizes.values()) <= budget:
        return "none"
    return "model" if sizes.get(_STAYS, 0) + _largest(sizes) <= budget else "group"


def place(pipe: Any, device: Device, wanted: str | None) -> int:
    """Bring a pipeline to the device as ``options.offload`` wants it; the bytes that it takes there.

    Raises ModelUnavailable for what nobody knows how to do."""
    if wanted not in (None, *OFFLOADS):
        raise ModelUnavailable(
            f"options.offload: {wanted!r} is not known; give one of {', '.join(OFFLOADS)}", retryable=False
        )
    parts = dict(parts_of(pipe))
    sizes = {name: module_bytes(part) for name, part in parts.items()}
    may_move = device.name != "cpu" and device.memory > 0
    how = wanted or (choose(sizes, device.memory) if may_move else "none")
    if how == "none":
        _move(pipe, device)
    else:
        if (stays := parts.pop(_STAYS, None)) is not None:
            stays.to(device.name)
        (_take_turns if how == "model" else _by_layers)(parts, device)
    if how == "none" or device.name == "cpu":  # there, main memory is the device
        return module_bytes(*dict(parts_of(pipe)).values())
    return sizes.get(_STAYS, 0) + (_largest(sizes) if how == "model" else _two_layers(parts))


def parts_of(pipe: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules of a pipeline by name; of several ControlNets, which come in one module, each."""
    for name, part in pipe.components.items():
        if nets := list(getattr(part, "nets", ())):
            yield from ((f"{name}.{number}", net) for number, net in enumerate(nets))
        elif isinstance(part, torch.nn.Module):
            yield name, part


def _move(pipe: Any, device: Device) -> None:
    """All of it, on a stream of its own: what computes meanwhile on a GPU does not wait for the copies."""
    if not device.name.startswith("cuda"):
        pipe.to(device.name)
        return
    stream = torch.cuda.Stream(device.name)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        pipe.to(device.name)
    stream.synchronize()


def _largest(sizes: Mapping[str, int]) -> int:
    """Of the parts that take turns."""
    return max((size for name, size in sizes.items() if name != _STAYS), default=0)


def _two_layers(parts: Mapping[str, torch.nn.Module]) -> int:
    """The largest layer, twice: while it is computed the next one comes."""
    layers = [layer for part in parts.values() for layer in part.modules() if not list(layer.children())]
    return 2 * max(map(module_bytes, layers), default=0)


def _by_layers(parts: Mapping[str, torch.nn.Module], device: Device) -> None:
    for part in parts.values():
        apply_group_offloading(
            part,
            onload_device=torch.device(device.name),
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            # the next layer comes, out of pinned memory, while this one is computed
            use_stream=device.name.startswith("cuda"),
        )


def _take_turns(parts: Mapping[str, torch.nn.Module], device: Device) -> None:
    stage = Stage(device.name, max(map(module_bytes, parts.values()), default=0))
    for part in parts.values():
        add_hook_to_module(part, _Comes(stage))


class _Comes(ModelHook):  # type: ignore[misc]  # the library is untyped
    """Brings its module to the stage before each call. Pipelines read where they compute from it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.execution_device = stage.device

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._stage.bring(module)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)


class Stage:
    """The parts of a pipeline that are on the device now: no more than ``room`` bytes of them, least
    recently used leave first. Only who may compute on the device calls this."""

    def __init__(self, device: str, room: int) -> None:
        self.device = device
        self._room = room
        self._there: dict[torch.nn.Module, int] = {}
        #: tensor → its numbers in main memory: they never change, so leaving copies nothing
        self._homes: dict[torch.Tensor, torch.Tensor] = {}

    @property
    def parts(self) -> tuple[torch.nn.Module, ...]:
        """Those that are there, most recently used last."""
        return tuple(self._there)

    def bring(self, module: torch.nn.Module) -> None:
        """Have a part there. Raises what the device raises where it has no room."""
        nbytes = self._there.pop(module, None)
        if nbytes is None:
            nbytes = module_bytes(module)
            while self._there and sum(self._there.values()) + nbytes > self._room:
                self._send_home(next(iter(self._there)))
            self._fetch(module)
        self._there[module] = nbytes

    def _fetch(self, module: torch.nn.Module) -> None:
        try:
            for tensor in _tensors(module):
                tensor.data = self._home(tensor).to(self.device, non_blocking=True)
        except BaseException:
            self._there[module] = 0  # some of it may be there
            self._send_home(module)
            raise

    def _send_home(self, module: torch.nn.Module) -> None:
        del self._there[module]
        for tensor in _tensors(module):
            tensor.data = self._home(tensor)

    def _home(self, tensor: torch.Tensor) -> torch.Tensor:
        """Pinned for a GPU, which then fetches it without the help of the CPU."""
        if (home := self._homes.get(tensor)) is None:
            home = tensor.data.cpu()
            self._homes[tensor] = home = home.pin_memory() if self.device.startswith("cuda") else home
        return home


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
