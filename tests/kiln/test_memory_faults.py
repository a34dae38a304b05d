"""A real pipeline whose denoiser runs out of memory above some rows, as torch says it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.errors import OutOfMemory
from tests.engines import pipelines
from tests.engines.test_arrange import Loaded
from tests.engines.test_tasks import Pixels, difference, load, pixels
from tests.kiln.studio import Studio
from worker.engines.contract.engine import Image
from worker.engines.diffusion.engine import LoadedPipeline
from worker.engines.fake.engine import FakeEngine
from worker.kiln.kiln_job import Outcome

#: each guided picture takes two
MOST_ROWS = 4
SIZE = 16


def says_torch() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def says_the_allocator() -> None:
    torch.empty(1 << 55, dtype=torch.uint8)  # more than there are addresses


@dataclass
class Small:
    """A studio with a pipeline on a small device; ``tried`` are the rows of each forward."""

    studio: Studio
    alone: Any
    tried: list[int] = field(default_factory=list)
    #: the models that were loaded at each of these
    beside: list[tuple[str, ...]] = field(default_factory=list)

    def together(self, *jobs: dict[str, Any]) -> list[Outcome]:
        self.tried.clear()
        self.beside.clear()
        return self.studio.together(jobs)


@pytest.fixture(params=[says_torch, pytest.param(says_the_allocator, marks=pytest.mark.slow)])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Small]:
    folder = pipelines.save("sd", tmp_path)
    plain = load(folder)

    class Engine(Loaded):
        """Loads the model anew each time."""

        def load(self, *_: Any) -> LoadedPipeline:
            loaded = load(folder)
            loaded.pipe.unet.conv_in.register_forward_pre_hook(full)
            return loaded

    with Studio(tmp_path, Engine(plain)) as studio:
        small = Small(studio, lambda job: pixels(plain, tmp_path, **job))

        def full(_: Any, given: tuple[torch.Tensor, ...]) -> None:
            small.tried.append(len(given[0]))
            small.beside.append(studio.kiln.models)
            if len(given[0]) > MOST_ROWS:
                request.param()

        studio.together([job(1), job(2)])  # that they may share is checked
        yield small


def job(seed: int, **more: Any) -> dict[str, Any]:
    return {
        "prompt": "a",
        "seed": seed,
        "steps": 3,
        "guidance_scale": 4.0,
        "width": SIZE,
        "height": SIZE,
        **more,
    }


def drawn(outcome: Outcome) -> list[Pixels]:
    assert outcome.result is not None, outcome.trace
    return [image.pixels for image in outcome.result.outputs if isinstance(image, Image)]


def test_idle_models_leave_then_the_batch_is_halved_and_the_bound_is_remembered(small: Small) -> None:
    idle = {"prompt": "", "seed": 1, "steps": 1, "width": 8, "height": 8}
    small.studio.submit(idle, model="idle", engine=FakeEngine()).wait()
    jobs = [job(seed) for seed in range(4)]
    outcomes = small.together(*jobs)
    assert small.tried[:4] == [8, 8, 4, 4], "as one, as one without idle models, in halves"
    assert "idle" in small.beside[0] and small.beside[1] == ("m",)
    assert set(small.tried[4:]) == {4}
    for outcome, given in zip(outcomes, jobs, strict=True):
        assert difference(drawn(outcome)[0], small.alone(given)) <= 1
    small.together(*jobs)
    assert set(small.tried) == {4}
    assert small.studio.kiln.forwards["splits"] == 1


def test_a_job_too_large_alone_fails_with_its_sizes_and_its_neighbours_come_out_right(small: Small) -> None:
    before, large, after, exact = (
        job(1),
        job(2, num_images=3),
        job(3),
        job(4, exact=True),
    )
    first, failed, second, apart = small.together(before, large, after, exact)
    assert isinstance(failed.error, OutOfMemory)
    assert "computing unet" in failed.error.message
    assert "unet 4x8x8 float32, 6 row(s), alone" in failed.error.message
    assert 6 in small.tried, "it was tried alone"
    for outcome, given in ((first, before), (second, after)):
        assert difference(drawn(outcome)[0], small.alone(given)) <= 1
    assert (drawn(apart)[0] == small.alone(exact)).all(), "bit for bit"


@pytest.mark.slow
def test_the_bound_outlives_the_loaded_model(small: Small) -> None:
    small.together(*(job(seed) for seed in range(4)))
    fake = {"prompt": "", "seed": 1, "steps": 1, "width": 8, "height": 8, "oom_above": 0}
    small.studio.submit(fake, model="idle", engine=FakeEngine()).wait()
    assert "m" not in small.studio.kiln.models, "a job that finds no room has idle models leave"
    small.together(*(job(seed) for seed in range(4)))
    assert max(small.tried) == MOST_ROWS
