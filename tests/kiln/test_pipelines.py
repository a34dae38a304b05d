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

from shared.catalog.entries.model import Model
from tests.engines.contexts import Recorder
from tests.kiln.studio import Studio
from tests.kiln.zoo import ZOO, Species
from worker.engines.batching.patches import install, taking_part
from worker.engines.contract.engine import Call, Context, Device, Result, Stopped, StopReason, Work
from worker.engines.diffusion.resume import Checkpoints
from worker.kiln.kiln_job import Outcome

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
        generator = seeded(int(work.input["index"]))
        saved = Checkpoints(context, [generator])
        with taking_part(context, calls=saved.calls):
            try:
                return Result(value=self.call(int(work.input["index"]), generator, saved))
            except Stopped:
                saved.write()
                raise

    def call(
        self, index: int, generator: torch.Generator | None = None, saved: Checkpoints | None = None
    ) -> dict[str, Any]:
        """What the library gives for job ``index``: the last latents and the output."""
        pipe = copy.copy(self.pipe)
        pipe.scheduler = copy.deepcopy(self.pipe.scheduler)
        seen: dict[str, Any] = {}
        given = self.species.call(index)

        def keep(running: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
            if saved is not None:
                saved.after_step(running, step, values)
            seen["latents"] = values["latents"]
            return values

        if "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters:
            given |= {"callback_on_step_end": keep}
        else:
            given |= {"callback": lambda step, time, latents: seen.update(latents=latents)}
        drawn = generator or seeded(index)
        seen["output"] = np.asarray(pipe(**given, generator=drawn, output_type="np")[0])
        return seen

    def _counted(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.forwards += 1
            return forward(*args, **kwargs)

        return counted


def seeded(index: int) -> torch.Generator:
    return torch.Generator().manual_seed(100 + index)


@dataclass
class Interrupted(Recorder):
    """Ends the job at its denoiser's call after so many, as a worker does that is told to leave."""

    calls: int = 0

    def share(self, call: Call) -> Any:
        if call.looped:
            self.calls -= 1
            if self.calls < 0:
                raise Stopped(StopReason.DRAINING)
        return super().share(call)


#: these are for every run; the others are slow
USUAL = ("sd-ddim", "controlnet", "sdxl", "sd3", "pixart", "z-image", "wan")


@pytest.fixture(
    scope="module",
    params=[name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in ZOO],
)
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


@pytest.mark.slow
def test_an_exact_job_is_bitwise_the_run_alone(zoo: Library, studio: Studio) -> None:
    zoo.forwards = 0
    exact = [{"index": index, "exact": True} for index in range(4)]
    found = values(studio.together(exact))
    assert zoo.forwards == zoo.species.alone
    for index in range(4):
        alone = zoo.call(index)
        assert torch.equal(alone["latents"], found[index]["latents"])
        assert np.array_equal(alone["output"], found[index]["output"])


@pytest.mark.slow
def test_a_job_broken_off_goes_on_without_computing_its_steps_again(zoo: Library, tmp_path: Path) -> None:
    if "callback_on_step_end" not in inspect.signature(type(zoo.pipe).__call__).parameters:
        pytest.skip("the library calls nobody back after a step of this pipeline")
    job = Work(job_id="job", task="t", input={"index": 3})
    zoo.forwards = 0
    whole = zoo.call(3)
    all_of_them = zoo.forwards
    broken = Interrupted(tmp_path / "first", calls=all_of_them // 2 + 1)
    with pytest.raises(Stopped):
        zoo.run(zoo.pipe, job, broken)
    assert broken.latest is not None, "no checkpoint"
    zoo.forwards = 0
    goes_on = Recorder(tmp_path / "second", resume=broken.latest)
    found = dict(zoo.run(zoo.pipe, job, goes_on).value or {})
    assert 0 < zoo.forwards <= all_of_them - 2 * (all_of_them // 5)  # a half of its five steps, at least two
    assert torch.equal(whole["latents"], found["latents"])
    assert np.array_equal(whole["output"], found["output"])
    assert {path.suffix for path in broken.latest.iterdir()} == {".safetensors", ".json"}
