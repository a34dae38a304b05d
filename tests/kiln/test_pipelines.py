"""Unmodified pipelines of many classes, four jobs at a time: they share their forwards, and nothing else."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.catalog.models import Model
from tests.kiln.studio import Studio
from tests.kiln.zoo import ZOO, Species
from worker.engines.base import Context, Device, Result, Work
from worker.engines.sharing.points import install, taking_part
from worker.kiln.firing import Outcome

#: how far results may differ when a forward is shared
LATENTS, PIXELS = 1e-3, 1


@dataclass
class Library:
    """An engine that does nothing but call a pipeline, and counts its denoisers' forwards."""

    species: Species
    folder: Path
    forwards: int = 0
    pipe: Any = None

    def load(self, model: Model | None, folder: Path | None, device: Device) -> Any:
        if self.pipe is None:
            torch.manual_seed(0)
            self.pipe = self.species.build(self.folder)
            self.pipe.set_progress_bar_config(disable=True)
            if self.species.scheduler is not None:
                self.pipe.scheduler = self.species.scheduler.from_config(self.pipe.scheduler.config)
            for name in self.species.denoisers:
                module = getattr(self.pipe, name)
                module.forward = self._counted(module.forward)
            for part in self.pipe.components.values():
                if isinstance(part, torch.nn.Module):
                    part.eval()
            install(self.pipe)
        return self.pipe

    def nbytes(self, loaded: Any) -> int:
        return 0

    def run(self, loaded: Any, work: Work, context: Context) -> Result:
        with taking_part(context):
            return Result(value=self.call(int(work.input["index"])))

    def call(self, index: int) -> dict[str, Any]:
        """What the library gives for job ``index``: the last latents and the output."""
        pipe = copy.copy(self.pipe)
        pipe.scheduler = copy.deepcopy(self.pipe.scheduler)
        seen: dict[str, Any] = {}
        given = self.species.call(index)

        def keep(_: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
            seen["latents"] = values["latents"]
            return values

        if "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters:
            given |= {"callback_on_step_end": keep}
        else:
            given |= {"callback": lambda step, time, latents: seen.update(latents=latents)}
        generator = torch.Generator().manual_seed(100 + index)
        seen["output"] = np.asarray(pipe(**given, generator=generator, output_type="np")[0])
        return seen

    def _counted(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.forwards += 1
            return forward(*args, **kwargs)

        return counted


@pytest.fixture(scope="module", params=list(ZOO))
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Each pipeline in turn, built once."""
    folder = tmp_path_factory.mktemp("zoo")
    torch.set_num_threads(1)
    library = Library(ZOO[request.param], folder)
    library.load(None, None, Device())
    return library


@pytest.fixture
def studio(zoo: Library, tmp_path: Path) -> Iterator[Studio]:
    with Studio(tmp_path, zoo) as studio:
        yield studio


def values(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    for outcome in outcomes:
        assert outcome.result is not None, outcome.trace
    return [dict(outcome.result.value or {}) for outcome in outcomes if outcome.result is not None]


def test_four_jobs_share_their_forwards_and_come_out_as_alone(zoo: Library, studio: Studio) -> None:
    alone = [zoo.call(index) for index in range(4)]
    assert len({one["latents"].numpy().tobytes() for one in alone}) == 4
    jobs = [{"index": index} for index in range(4)]
    studio.together(jobs)  # the first time that such calls meet they are checked
    before, zoo.forwards = studio.kiln.forwards, 0
    shared = values(studio.together(jobs))
    assert zoo.forwards == zoo.species.together
    told = {reason for reason in studio.kiln.forwards if reason.startswith("alone/")}
    assert not told, told
    assert studio.kiln.forwards["shared"] > before["shared"]
    for one, other in zip(alone, shared, strict=True):
        assert torch.allclose(one["latents"], other["latents"], rtol=0, atol=LATENTS)
        pixels = [np.round(each["output"] * 255.0) for each in (one, other)]
        assert np.abs(pixels[0] - pixels[1]).max() <= PIXELS


def test_an_exact_job_is_bitwise_the_run_alone(zoo: Library, studio: Studio) -> None:
    zoo.forwards = 0
    exact = [{"index": index, "exact": True} for index in range(4)]
    found = values(studio.together(exact))
    assert zoo.forwards == zoo.species.alone
    for index in range(4):
        alone = zoo.call(index)
        assert torch.equal(alone["latents"], found[index]["latents"])
        assert np.array_equal(alone["output"], found[index]["output"])
