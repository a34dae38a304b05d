"""Networks that a library loads get all their tensors from their files, or are refused.

diffusers and transformers warn where a file lacks tensors, and go on with random numbers: the job succeeds,
and its picture is noise. Both tell what they found where they are asked to (``output_loading_info``), which a
pipeline does not let through to the networks it loads. So the two functions that load a network are wrapped
once, and ask for it on a thread that is inside ``complete``. Tensors that are tied to others, or that are not
kept in files, are missing to neither library.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from safetensors import SafetensorError

from shared.errors import ModelUnavailable
from worker.engines.device_faults import device_fault
from worker.engines.memory import memory_errors

log = logging.getLogger(__name__)

#: names of tensors that a message tells
_NAMED = 5
#: counts batches in training; nothing that is computed with a trained network reads it
_COUNTER = "num_batches_tracked"
#: set on what is wrapped
_TELLS = "_qanvas_tells"


class _Here(threading.local):
    #: what this thread has loaded; None outside of ``complete``
    loaded: list[tuple[str, Mapping[str, Any]]] | None = None


_here = _Here()


@contextmanager
def complete(what: str) -> Iterator[None]:
    """Inside, this thread loads ``what``, as "model m" or "the ControlNet of model m".

    Raises ModelUnavailable where files cannot be read, tensors are missing or of another shape, naming some;
    and OutOfMemory. Tensors too many are told in the log."""
    _wrap()
    _here.loaded = []
    try:
        with memory_errors(f"loading {what}"):
            yield
        for network, info in _here.loaded:
            check(f"{what}, {network}", info["missing_keys"], info["unexpected_keys"])
            if wrong := info["mismatched_keys"]:
                raise refused(f"{what}, {network}", "of another shape", [key for key, *_ in wrong])
    except (OSError, ValueError, ImportError, AttributeError, KeyError, TypeError, RuntimeError) as error:
        if device_fault(error) is not None:
            raise
        raise ModelUnavailable(f"{what} cannot be loaded: {error}", retryable=False) from error
    except SafetensorError as error:
        raise ModelUnavailable(
            f"{what} cannot be loaded: a file of its weights is damaged: {error}; download it again",
            retryable=False,
        ) from error
    finally:
        _here.loaded = None


def check(what: str, missing: Collection[str], unexpected: Collection[str]) -> None:
    """Raises ModelUnavailable where a network lacks tensors; says in the log which were too many."""
    if lacking := [name for name in missing if not name.endswith(_COUNTER)]:
        raise refused(what, "not there", lacking)
    if unexpected:
        log.warning("%s: its files hold %s, which it does not use", what, _some(unexpected))


def refused(what: str, how: str, names: Collection[str]) -> ModelUnavailable:
    """``how`` tensors are that it needs."""
    return ModelUnavailable(
        f"{what}: tensors that it needs are {how} in its files: {_some(names)}; download or export it again, "
        "or correct its config.json",
        retryable=False,
    )


def _some(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _wrap() -> None:
    """Have the libraries' loading of a network tell what it found, on threads that ask for it. Whoever loads
    with a library has imported it: others are left alone, as importing one takes seconds."""
    for library, name in (("diffusers", "ModelMixin"), ("transformers", "PreTrainedModel")):
        if (module := sys.modules.get(library)) is not None:
            base: Any = getattr(module, name)
            if not getattr(base.from_pretrained, _TELLS, False):
                base.from_pretrained = classmethod(_telling(base.from_pretrained.__func__))


def _telling(original: Any) -> Any:
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        loaded = _here.loaded
        if loaded is None or kwargs.get("output_loading_info"):
            return original(cls, *args, **kwargs)
        network, info = original(cls, *args, **kwargs, output_loading_info=True)
        loaded.append((type(network).__name__, info))
        return network

    setattr(from_pretrained, _TELLS, True)
    return wraps(original)(from_pretrained)
