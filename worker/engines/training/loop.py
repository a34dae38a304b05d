"""What every trainer shares: a loop with a budget, an average of the weights, and exact checkpoints.

A checkpoint is safetensors and JSON. A run that was stopped and resumed ends with the weights of one that
was not, bit for bit, where the budget is in steps.
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shared.errors import JobError
from worker.engines.contract.engine import Context, Progress, Stopped, StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long to train and how fast: whichever of ``steps`` and ``minutes`` is spent first ends it."""

    steps: int
    minutes: float | None = None
    learning_rate: float = 1e-3
    warmup: int = 150
    #: the share of the budget after which the learning rate falls, as half a cosine
    hold: float = 0.4
    #: how much of the average of the weights stays at each step
    decay: float = 0.998
    weight_decay: float = 1e-2

    def spent(self, step: int, seconds: float) -> float:
        """The share of the budget that is gone, 0 to 1."""
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(step / self.steps, by_time))

    def rate(self, step: int, seconds: float) -> float:
        share = self.spent(step, seconds)
        fall = 0.0 if share < self.hold else (share - self.hold) / (1 - self.hold)
        return (
            self.learning_rate * min(1.0, (step + 1) / self.warmup) * (0.5 + 0.5 * math.cos(math.pi * fall))
        )


class Keeper:
    """Computes training steps, and saves now and then, and when the worker is told to leave."""

    def __init__(self, context: Context, seconds: float = 90.0) -> None:
        self._context, self._seconds, self._last = context, seconds, time.monotonic()

    def compute(self, step: Callable[[], None]) -> None:
        """Have a step computed. Call it inside ``saving``: the training may be stopped before or after it."""
        self._context.compute(step, "training; a smaller batch or a smaller model needs less")

    def boundary(self, progress: Progress, write: Callable[[Path], None]) -> None:
        with self.saving(write):
            self._context.boundary(progress)
        if time.monotonic() - self._last >= self._seconds:
            self._context.checkpoint(write)
            self._last = time.monotonic()

    @contextmanager
    def saving(self, write: Callable[[Path], None]) -> Iterator[None]:
        """Save where the job is stopped inside, because the worker leaves."""
        try:
            yield
        except Stopped as stopped:
            if stopped.reason is StopReason.DRAINING:
                self._context.checkpoint(write)
            raise


class Loop:
    """Trains the parameters of some modules by AdamW, with an average of them beside."""

    def __init__(self, modules: Mapping[str, nn.Module], budget: Budget, seed: int) -> None:
        self.budget = budget
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.seconds = 0.0
        self.loss = math.nan
        self._parameters = {
            f"{part}.{name}": parameter
            for part, module in modules.items()
            for name, parameter in module.named_parameters()
        }
        values = list(self._parameters.values())
        self._average = [p.detach().clone() for p in values]
        self._optimizer = torch.optim.AdamW(
            values, betas=(0.9, 0.99), weight_decay=budget.weight_decay, fused=True
        )

    @property
    def share(self) -> float:
        return self.budget.spent(self.step, self.seconds)

    def run(
        self,
        loss: Callable[[torch.Generator], Tensor],
        stage: str,
        keeper: Keeper,
        write: Callable[[Path], None],
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """Step until the budget is spent. ``loss`` draws a batch with the generator it is given."""

        def step() -> None:
            started = time.monotonic()
            self._update(loss(self.generator))
            self.seconds += time.monotonic() - started

        while self.share < 1:
            with keeper.saving(write):
                keeper.compute(step)
                after()
            total = round(self.step / self.share) if self.budget.minutes else self.budget.steps
            keeper.boundary(Progress(stage, self.step, total), write)

    def _update(self, loss: Tensor) -> None:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise JobError(
                f"the loss became {value} at step {self.step}; train again with a lower learning rate",
                type="invalid-input",
            )
        for group in self._optimizer.param_groups:
            group["lr"] = self.budget.rate(self.step, self.seconds)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        values = list(self._parameters.values())
        nn.utils.clip_grad_norm_(values, 1.0)
        self._optimizer.step()
        self.step += 1
        self.loss = value if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * value
        # A young average must not hold on to the random weights that training began with.
        decay = min(self.budget.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self._average, [p.detach() for p in values], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The modules hold the average of their weights inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def adopt_average(self) -> None:
        """Training is over: the modules keep the average."""
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self._parameters.values(), self._average, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(held)

    def save(self, folder: Path) -> None:
        tensors = {"generator": self.generator.get_state()}
        for (name, parameter), average in zip(self._parameters.items(), self._average, strict=True):
            tensors[f"weights.{name}"] = parameter.detach()
            tensors[f"average.{name}"] = average
            for moment in ("exp_avg", "exp_avg_sq"):
                if parameter in self._optimizer.state:
                    tensors[f"{moment}.{name}"] = self._optimizer.state[parameter][moment]
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, folder / "loop.safetensors")
        facts = {"step": self.step, "seconds": self.seconds, "loss": self.loss}
        (folder / "loop.json").write_text(json.dumps(facts))

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        facts = json.loads((folder / "loop.json").read_text())
        self.step, self.seconds, self.loss = facts["step"], facts["seconds"], facts["loss"]
        tensors = load_file(folder / "loop.safetensors")
        self.generator.set_state(tensors["generator"])
        for (name, parameter), average in zip(self._parameters.items(), self._average, strict=True):
            parameter.copy_(tensors[f"weights.{name}"])
            average.copy_(tensors[f"average.{name}"])
            if f"exp_avg.{name}" in tensors:
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step), device=parameter.device),
                    **{
                        # the parameter's memory format, or the sums round differently
                        moment: torch.empty_like(parameter).copy_(tensors[f"{moment}.{name}"])
                        for moment in ("exp_avg", "exp_avg_sq")
                    },
                }


def keep_heap() -> None:
    """Let glibc keep the memory that tensors free.

    By default each large tensor is mapped and unmapped anew, and the page faults made a training step on a
    virtual machine's CPU three times as slow (5.3 s → 1.6 s)."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: never map
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never give back
        mallopt(-2, 2**28)  # M_TOP_PAD: grow by 256 MiB


def autocast(device: str) -> torch.autocast:
    """bfloat16 where the device computes it natively; emulated, it is many times slower than float32."""
    if device.startswith("cuda"):
        return torch.autocast("cuda", torch.bfloat16)
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())
