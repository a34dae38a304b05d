"""Models larger than the device: their parts come when they are called, and their jobs share all the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from shared.errors import ModelUnavailable
from tests.engines import additions, pipelines
from tests.engines.contexts import Recorder
from tests.engines.test_arrange import Loaded
from tests.engines.test_tasks import SIZE, difference, left_half, load, picture, pixels
from tests.kiln.studio import Studio
from worker.engines.batching.patches import install, taking_part
from worker.engines.contract.engine import Call, Image
from worker.engines.diffusion.engine import LoadedPipeline
from worker.engines.memory import module_bytes
from worker.engines.placement.offload import Stage, choose

JOBS = [
    {
        "prompt": "a",
        "seed": seed,
        "steps": steps,
        "guidance_scale": 4.0,
        "width": SIZE,
        "height": SIZE,
    }
    for seed, steps in ((1, 3), (2, 5), (3, 4))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.save("sd", tmp_path_factory.mktemp("sd"))


@pytest.fixture
def plain(folder: Path) -> LoadedPipeline:
    return load(folder)


@pytest.mark.parametrize(
    ("budget", "how"),
    [(100, "none"), (99, "model"), (75, "model"), (74, "group"), (1, "group")],
)
def test_the_size_decides_how_a_model_lies_on_its_device(budget: int, how: str) -> None:
    assert choose({"unet": 70, "text_encoder": 25, "vae": 5}, budget) == how


def test_an_entry_says_how_and_is_told_what_there_is(folder: Path) -> None:
    with pytest.raises(ModelUnavailable, match="'disk' is not known; give one of none, model, group"):
        load(folder, offload="disk")


def test_on_a_cpu_main_memory_is_the_device(folder: Path, plain: LoadedPipeline) -> None:
    for how in ("model", "group"):
        assert load(folder, offload=how).nbytes == plain.nbytes


@pytest.mark.parametrize("how", ["model", "group"])
def test_offloaded_jobs_share_their_forwards_and_draw_what_the_plain_model_draws(
    how: str, folder: Path, plain: LoadedPipeline, tmp_path: Path
) -> None:
    alone = [pixels(plain, tmp_path, **job) for job in JOBS]
    loaded = load(folder, offload=how)
    with Studio(tmp_path, Loaded(loaded)) as studio:
        studio.together(JOBS)  # the first time that such calls meet they are checked
        before = Counter(studio.kiln.forwards)
        outcomes = studio.together(JOBS)
        counts = Counter(studio.kiln.forwards) - before
    assert counts["forwards/unet"] == 5, "as many as the longest job has steps"
    assert not [name for name in counts if name.startswith("alone/")]
    for outcome, expected in zip(outcomes, alone, strict=True):
        assert outcome.result is not None, outcome.trace
        [image] = outcome.result.outputs
        assert isinstance(image, Image) and difference(image.pixels, expected) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["model", "group"])
def test_an_offloaded_model_does_its_other_tasks_and_shows_previews(
    how: str, folder: Path, plain: LoadedPipeline, tmp_path: Path
) -> None:
    loaded = load(folder, offload=how)
    for task, given in (
        ("image-to-image", {"image": picture(), "strength": 0.8}),
        ("inpainting", {"image": picture(), "mask": left_half(), "strength": 1.0}),
        ("text-to-image", {"preview_every": 1}),
    ):
        drawn, expected = (pixels(each, tmp_path, task, **given) for each in (loaded, plain))
        assert difference(drawn, expected) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["model", "group"])
def test_adapters_join_an_offloaded_model_and_its_jobs_still_wait_for_each_other(
    how: str, folder: Path, plain: LoadedPipeline, tmp_path: Path
) -> None:
    path = additions.save_lora(folder, tmp_path / "ink", seed=1)
    inked = {"loras": [{"name": "ink", "weight": 1.0, "path": str(path)}]}
    expected = pixels(plain, tmp_path, **JOBS[1], **inked)
    loaded = load(folder, offload=how)
    with Studio(tmp_path, Loaded(loaded)) as studio:
        outcomes = studio.together([JOBS[1] | inked, JOBS[1] | inked])
        assert studio.kiln.forwards["shared"] > 0
    for outcome in outcomes:
        assert outcome.result is not None, outcome.trace
        [image] = outcome.result.outputs
        assert isinstance(image, Image) and difference(image.pixels, expected) <= 1


def test_parts_take_turns_and_the_least_recently_used_leaves_first() -> None:
    a, b, c, large = (torch.nn.Linear(width, 1, bias=False) for width in (10, 10, 10, 25))
    stage = Stage("cpu", room=module_bytes(large))
    for part in (a, b, a, c):
        stage.bring(part)
    assert stage.parts == (a, c)
    stage.bring(large)
    assert stage.parts == (large,)


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Makes a stage on the CPU as far away as one on a GPU: what comes there is a copy. Holds what came."""
    came: list[torch.Tensor] = []

    def copied(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        came.append(tensor)
        if len(came) == 2:
            raise torch.OutOfMemoryError("no room for the second tensor")
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "to", copied)
    return came


def lies(part: torch.nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in part.parameters()]


def test_weights_go_home_without_a_copy(far: list[torch.Tensor]) -> None:
    far += [torch.zeros(1)] * 2  # nothing fails
    part, other = torch.nn.Linear(4, 4), torch.nn.Linear(64, 64)
    home, values = lies(part), [parameter.clone() for parameter in part.parameters()]
    stage = Stage("cpu", room=1)
    for _ in range(2):
        stage.bring(part)
        assert not set(lies(part)) & set(home)
        assert all(map(torch.equal, part.parameters(), values))
        stage.bring(other)
        assert lies(part) == home


def test_a_part_that_finds_no_room_leaves_nothing_behind(far: list[torch.Tensor]) -> None:
    part, stage = torch.nn.Linear(4, 4), Stage("cpu", room=100)
    home = lies(part)
    with pytest.raises(torch.OutOfMemoryError):
        stage.bring(part)
    assert stage.parts == () and lies(part) == home
    stage.bring(part)
    assert stage.parts == (part,) and not set(lies(part)) & set(home)


def test_a_hook_that_puts_itself_in_the_patchs_place_ends_no_sharing(folder: Path, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    unet, forward = pipe.unet, pipe.unet.forward

    @wraps(forward)
    def first(*args: Any, **kwargs: Any) -> Any:
        """As the library's streams do, which learn the order of layers from a first call."""
        unet.forward = forward
        return forward(*args, **kwargs)

    unet.forward = first
    install(pipe)
    waited = Waits(tmp_path)
    given = (torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 8, 32))
    with torch.no_grad(), taking_part(waited):
        for _ in range(3):
            unet(*given)
    assert waited.calls == 3


@dataclass
class Waits(Recorder):
    """Counts the calls that wait for their turn."""

    calls: int = 0

    def share(self, call: Call) -> Any:
        self.calls += 1
        return super().share(call)
