"""Layouts and compiled forwards, as a catalog entry asks for them."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engines import pipelines
from tests.engines.test_tasks import SIZE, difference, load, pixels
from tests.kiln.studio import Studio
from worker.engines.batching.buckets import bucket, fillers
from worker.engines.contract.engine import Context, Device, Image, Result, Work
from worker.engines.diffusion.engine import DiffusionEngine, LoadedPipeline
from worker.engines.placement.layout import arrange
from worker.kiln.costs import Costs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.save("sd", tmp_path_factory.mktemp("sd"))


def channels_are_last(module: torch.nn.Module) -> bool:
    kernels = [parameter for parameter in module.parameters() if parameter.ndim == 4]
    return all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_channels_come_last_where_the_entry_says_so(folder: Path, tmp_path: Path) -> None:
    plain, last = load(folder), load(folder, channels_last=True)
    assert not channels_are_last(plain.pipe.unet)
    assert channels_are_last(last.pipe.unet) and channels_are_last(last.pipe.vae)
    assert difference(pixels(plain, tmp_path), pixels(last, tmp_path)) <= 1


@pytest.mark.parametrize(
    ("device", "options", "last"),
    [
        (Device("cuda:0", "float16"), {}, True),
        (Device("cuda:0", "float16"), {"dtype": "float32"}, False),
        (Device("cuda:0", "float32"), {}, False),
        (Device(), {}, False),
    ],
)
def test_on_a_gpu_in_half_precision_they_do_by_themselves(
    device: Device, options: dict[str, str], last: bool, folder: Path
) -> None:
    pipe = load(folder).pipe
    arrange(pipe, device, options)
    assert channels_are_last(pipe.unet) is last


class Loaded(DiffusionEngine):
    """An engine whose model is there already."""

    def __init__(self, loaded: LoadedPipeline) -> None:
        self._loaded = loaded

    def load(self, *_: Any) -> LoadedPipeline:
        return self._loaded

    def run(self, loaded: LoadedPipeline, work: Work, context: Context) -> Result:
        return super().run(loaded, Work(job_id=work.job_id, task="text-to-image", input=work.input), context)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each call of a compiled forward."""
    seen: list[int] = []

    def compiled(forward: Any, **options: Any) -> Any:
        assert options == {"backend": "eager"}

        @wraps(forward)
        def counted(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            seen.append(len(sample))
            return forward(sample, *args, **kwargs)

        return counted

    monkeypatch.setattr(torch, "compile", compiled)
    return seen


def test_a_compiled_forward_sees_few_numbers_of_rows_and_gives_the_same_pictures(
    folder: Path, tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Costs, "together", lambda self, rows, behind=0: len(rows))  # as many as there are
    loaded = load(folder, compile="eager")
    jobs = [
        {"prompt": "a", "seed": seed, "steps": 6, "guidance_scale": 4.0, "width": SIZE, "height": SIZE}
        for seed in (3, 4, 5)
    ]
    alone = [pixels(loaded, tmp_path, **job) for job in jobs]
    assert set(sizes) == {2}
    with Studio(tmp_path, Loaded(loaded)) as studio:
        outcomes = studio.together(jobs)
    for outcome, expected in zip(outcomes, alone, strict=True):
        assert outcome.result is not None, outcome.trace
        [image] = outcome.result.outputs
        assert isinstance(image, Image) and difference(image.pixels, expected) <= 1
    assert 8 in sizes and set(sizes) <= {2, 4, 8}  # three jobs of two rows fill eight


@pytest.mark.slow
def test_torchs_own_compiler_gives_the_same_picture(folder: Path, tmp_path: Path) -> None:
    compiled = load(folder, compile="aot_eager")
    assert difference(pixels(load(folder), tmp_path), pixels(compiled, tmp_path)) <= 1


@pytest.mark.parametrize(("rows", "holds"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16)])
def test_a_bucket_is_the_next_power_of_two(rows: int, holds: int) -> None:
    assert bucket(rows) == holds


@pytest.mark.parametrize(
    ("rows", "again"),
    [([2], []), ([2, 2, 2], [0]), ([2, 1, 2], [1, 1, 1]), ([1] * 5, [0, 0, 0]), ([3, 3], []), ([3, 2], [1])],
)
def test_the_smallest_call_fills_the_gap(rows: list[int], again: list[int]) -> None:
    assert fillers(rows) == again
    assert sum(rows) + sum(rows[i] for i in again) <= bucket(sum(rows))
