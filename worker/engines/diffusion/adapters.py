"""LoRA adapters of one loaded pipeline: each is loaded when a job first names it, and stays.

Which adapters are active is a state of the modules, and jobs share the modules and take turns between any
two forwards. So a job's adapters are made active before each of its forwards, and only jobs with the same
``Active`` may share one: that value belongs to what a forward is batched by. A switch takes milliseconds.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open

from shared.errors import JobError, ModelUnavailable
from worker.engines.batching.patches import removed
from worker.engines.placement.offload import parts_of

log = logging.getLogger(__name__)

#: how the names of an adapter's two tensors for a layer end, by PEFT, diffusers and kohya
_DOWN = re.compile(r"(?:lora_A|lora_down|lora[._]down|lora_linear_layer\.down)(?:\.\w+)?\.weight$")
_UP = re.compile(r"(?:lora_B|lora_up|lora[._]up|lora_linear_layer\.up)(?:\.\w+)?\.weight$")

#: adapters by name with their weights, in the order of their names; empty for the model alone
Active = tuple[tuple[str, float], ...]


class Adapters:
    """Only who may compute on the device calls this."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._loaded: set[str] = set()
        self._active: Active | None = ()

    def load(self, loras: Sequence[Mapping[str, Any]]) -> Active:
        """What a job's ``loras`` mean: ``name``, ``weight`` and the local ``path`` of each, as prepared.

        Weights of the same name add up. Raises ModelUnavailable for an adapter that does not fit, JobError
        where the pipeline takes none."""
        weights: dict[str, float] = {}
        for lora in loras:
            name = str(lora["name"])
            weights[name] = weights.get(name, 0.0) + float(lora.get("weight", 1.0))
        named = {str(lora["name"]): lora for lora in loras}
        active = tuple(sorted((name, weight) for name, weight in weights.items() if weight))
        for name, _ in active:
            if name not in self._loaded:
                self._load(name, Path(named[name]["path"]))
        return active

    def activate(self, wanted: Active) -> None:
        """Make exactly these adapters act; nothing is done when they do already."""
        if wanted == self._active:
            return
        if wanted:
            names, weights = zip(*wanted, strict=True)
            self._pipe.enable_lora()
            self._pipe.set_adapters(list(names), list(weights))
        else:
            self._pipe.disable_lora()
        self._active = wanted

    def _load(self, name: str, path: Path) -> None:
        if not hasattr(self._pipe, "load_lora_weights"):
            raise JobError(
                f"{type(self._pipe).__name__} takes no loras; leave them out", type="invalid-input"
            )
        self._active = None  # what is loaded is active at once, whoever's turn it is
        try:
            with removed(self._pipe):  # the library hooks offloaded modules anew
                self._pipe.load_lora_weights(
                    path.parent, weight_name=path.name, adapter_name=name, local_files_only=True
                )
            self._check_fit(name, path)
        except (OSError, ValueError, KeyError, RuntimeError) as error:  # RuntimeError: sizes differ
            with suppress(ValueError, KeyError):
                self._pipe.delete_adapters(name)
            raise ModelUnavailable(
                f"LoRA {name} does not fit {type(self._pipe).__name__}: {error}", retryable=False
            ) from error
        self._loaded.add(name)

    def _check_fit(self, name: str, path: Path) -> None:
        """Raises ValueError for an adapter less than half of whose layers are in the model with both of their
        tensors; the log tells of others."""
        layers = {
            f"{part}.{layer}"
            for part, module in parts_of(self._pipe)
            for layer, one in module.named_modules()
            if name in getattr(one, "lora_A", ())
        }
        if not layers:
            raise ValueError("it names none of the model's layers")
        with safe_open(path, "pt") as file:
            names = list(file.keys())
        down, up = (sum(bool(side.search(key)) for key in names) for side in (_DOWN, _UP))
        pairs = max(down, up)
        # what the file has as one layer may be several here
        if (fit := min(down, up, len(layers))) < pairs / 2:
            raise ValueError(f"of its {pairs} layers, {fit} are in the model; it was made for another one")
        if fit < pairs:
            log.warning("LoRA %s: of its %d layers, %d are in the model", name, pairs, fit)
