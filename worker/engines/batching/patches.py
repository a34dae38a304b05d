"""The patch: a method of a loaded module that, inside a job, waits to be computed with others' calls."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from worker.engines.batching.buckets import fillers
from worker.engines.batching.call_log import CallLog
from worker.engines.batching.rules import DENOISERS, ENCODERS, Declared
from worker.engines.batching.unbatch import agree, split
from worker.engines.contract.engine import Call, Context, NotShareable
from worker.engines.memory import memory_errors
from worker.engines.placement.layout import COMPILED
from worker.engines.placement.offload import parts_of

_POINTS = "_qanvas_points"
#: what pipelines call of their modules
_METHODS = ("forward", "encode", "decode")
#: how the names of modules begin that are called at every step
_LOOPED = ("transformer", "unet", "controlnet", "prior")


@dataclass(slots=True)
class _Job:
    """The job whose thread this is."""

    context: Context
    state: Hashable
    ready: Callable[[], None]
    calls: CallLog | None


class _Here(threading.local):
    job: _Job | None = None


_here = _Here()


@contextmanager
def taking_part(
    context: Context,
    *,
    state: Hashable = None,
    ready: Callable[[], None] = lambda: None,
    calls: CallLog | None = None,
) -> Iterator[None]:
    """Inside, patched methods called on this thread wait for their turn in the job's kiln.

    ``state`` is what the job wants of its modules, as its adapters; only jobs of equal state share, and
    ``ready`` brings the modules into it before each call. ``calls`` hears of every denoiser's call, and may
    have it skipped."""
    _here.job = _Job(context, state, ready, calls)
    try:
        yield
    finally:
        _here.job = None


def install(pipe: Any) -> None:
    """Patch what is declared of a pipeline's modules, each once.

    What nobody declared is patched too: its calls are computed apart, on the engine thread as all others.
    What was hooked before, to bring a module to the device when it is called, is part of computing its
    calls."""
    for name, part in parts_of(pipe):
        _patch(name, part)


@contextmanager
def removed(pipe: Any) -> Iterator[None]:
    """Inside, the modules are as they were before ``install``, for a library that changes them."""
    points = [point for _, part in parts_of(pipe) for point in vars(part).get(_POINTS, ())]
    for point in points:
        point.step_aside()
    try:
        yield
    finally:
        for point in points:
            point.hold()


def _patch(name: str, module: Any) -> None:
    if _POINTS in vars(module):
        return
    points = [ModulePoint(name, module, declared) for declared in _declared(name, module)]
    vars(module)[_POINTS] = points
    for point in points:
        point.hold()


def _declared(name: str, module: Any) -> Iterator[Declared]:
    """Each method that pipelines call, as it is declared, or as one of which nothing is known."""
    cls = type(module).__name__
    known = DENOISERS.get(cls) or ENCODERS.get(cls)
    if known is not None:
        yield known
    for method in _METHODS:
        if hasattr(module, method) and (known is None or known.method != method):
            yield Declared("", {}, method=method, looped=name.startswith(_LOOPED) and method == "forward")


@dataclass(frozen=True, slots=True)
class _Arguments:
    ready: Callable[[], None]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    #: all of them by name
    named: Mapping[str, Any]


class ModulePoint:
    """Implements ``Point`` for one method of one module."""

    def __init__(self, name: str, module: Any, declared: Declared) -> None:
        self.name = name if declared.method == "forward" else f"{name}.{declared.method}"
        self._module = module
        self._declared = declared
        self._real: Callable[..., Any] = getattr(module, declared.method)
        self._names = list(inspect.signature(self._real).parameters)
        self._hook = vars(module).get("_hf_hook")

    def hold(self) -> None:
        """Stand in the method's place; what a library has put there meanwhile is the real one now."""
        there = getattr(self._module, self._declared.method)
        if there != self.called:
            self._real = there
            vars(self._module)[self._declared.method] = self.called

    def step_aside(self) -> None:
        """Leave the place to the real method."""
        vars(self._module)[self._declared.method] = self._real

    def called(self, *args: Any, **kwargs: Any) -> Any:
        """What stands in the method's place."""
        job = _here.job
        if job is None or torch.is_grad_enabled() or self._is_inside:
            return self._real(*args, **kwargs)
        calls = job.calls if self._declared.looped else None
        if calls is not None and (zeros := calls.skipped()) is not None:
            return zeros
        answer = job.context.share(self._call(job, args, kwargs))
        if calls is not None:
            calls.note(answer)
        return answer

    @property
    def _is_inside(self) -> bool:
        """Whether a hook came after the patch: it has moved the module for this call, and nobody may come
        between."""
        return vars(self._module).get("_hf_hook") is not self._hook

    def _call(self, job: _Job, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        named = dict(zip(self._names, args, strict=False)) | dict(kwargs)
        arguments = _Arguments(job.ready, args, kwargs, named)
        declared = self._declared
        if not (declared.kinds or declared.looped):  # once in a job: that it shares with nobody costs little
            return Call(point=self, arguments=arguments, looped=False)
        try:
            if not declared.kinds:
                raise NotShareable(f"{type(self._module).__name__} is not declared")
            if getattr(self._module, "is_cache_enabled", False):
                raise NotShareable("a cache of steps is on")
            main = named.get(declared.rows)
            rows, shape = _measure(main, declared.rows)
            key: list[tuple[str, Hashable]] = []
            for argument, value in named.items():
                if value is None:  # most of them
                    key.append((argument, None))
                    continue
                try:
                    key.append((argument, declared.kind(argument).describe(value, rows)))
                except NotShareable as error:
                    raise NotShareable(f"{argument}: {error}") from None
        except NotShareable as error:
            return Call(point=self, arguments=arguments, apart=f"{error}", looped=declared.looped)
        return Call(
            point=self,
            arguments=arguments,
            key=(job.state, *key),
            rows=rows,
            layout=tuple((argument, value is None) for argument, value in named.items()),
            size=f"{self.name} {shape}",
            looped=declared.looped,
        )

    def compute(self, calls: Sequence[Call]) -> Sequence[Any]:
        with torch.no_grad(), memory_errors(f"computing {self.name}"):
            calls[0].arguments.ready()
            try:
                return self._alone(calls[0]) if len(calls) == 1 else self._together(calls)
            finally:
                self.hold()  # the library's own hooks put themselves in its place after their first call

    def _alone(self, call: Call) -> Sequence[Any]:
        alone: _Arguments = call.arguments
        return [self._real(*alone.args, **alone.kwargs)]

    def _together(self, calls: Sequence[Call]) -> Sequence[Any]:
        asked = len(calls)
        if COMPILED in vars(self._module):
            calls = [*calls, *(calls[i] for i in fillers([call.rows for call in calls]))]
        rows = [call.rows for call in calls]
        given = [call.arguments.named for call in calls]
        joined = {
            argument: self._declared.kind(argument).join([each[argument] for each in given], rows)
            for argument in given[0]
        }
        return split(self._real(**joined), rows, lists=self._declared.answers_list)[:asked]

    def agree(self, one: Any, other: Any) -> bool:
        return agree(one, other)


def _measure(value: Any, name: str) -> tuple[int, str]:
    """How many rows a call has, and how large one is."""
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return len(value), _shown(value[0].shape, value[0].dtype)
    if isinstance(value, Tensor) and value.ndim > 0:
        return value.shape[0], _shown(value.shape[1:], value.dtype)
    raise NotShareable(f"{name} has no rows")


@lru_cache(256)
def _shown(shape: torch.Size, dtype: torch.dtype) -> str:
    return f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
