"""Going on from a model that ``train-diffusion`` made: what stays, what learns, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from shared.catalog import tasks
from shared.errors import InvalidInput
from shared.schema.input_check import InputCheck
from tests.engines.contexts import Recorder
from tests.engines.test_train_diffusion import one_thread, squares, weights, work
from tests.engines.training import train
from worker.engines.contract.engine import Image, Result, Stopped, StopReason, Work
from worker.engines.diffusion.training.trainer import DiffusionTrainer

#: it trains, and makes what is trained on
pytestmark = pytest.mark.slow

__all__ = ["one_thread"]  # a fixture

#: at this rate no weight changes in half precision
STANDSTILL = 1e-12
#: a size, a depth and a length that are not the trainer's defaults
SHAPE: dict[str, Any] = {"size": 32, "text_layers": 2, "tokens": 6, "channels": [16, 48]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("base")
    return train(DiffusionTrainer(), work(squares(folder), **SHAPE), Recorder(folder))


def folder_of(result: Result) -> Path:
    assert result.model is not None
    return result.model.folder


def more(folder: Path, base: Path, **changes: Any) -> Work:
    """A training that goes on from the base, as a worker prepares it."""
    given = {"dataset": str(squares(folder)), "name": "more", "base_model": "first", "seed": 4, "steps": 4}
    given |= {"batch_size": 2, "prompts": ["red square"], **changes}
    checked = InputCheck(tasks.load("train-diffusion")).check(given, "/input")
    named = {"name": "first", "path": str(base)}
    return Work(job_id="job_2", task="train-diffusion", input={**checked, "base_model": named})


def pixels(folder: Path) -> NDArray[np.float32]:
    library: Any = diffusers
    pipe = library.DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    made = pipe("red square", num_inference_steps=4, generator=generator, output_type="np").images
    return np.asarray(made, np.float32)


def test_a_training_that_learns_nothing_draws_what_its_base_draws(tmp_path: Path, base: Result) -> None:
    given = more(tmp_path, folder_of(base), learning_rate=STANDSTILL)
    result = train(DiffusionTrainer(), given, Recorder(tmp_path))
    assert np.array_equal(pixels(folder_of(result)), pixels(folder_of(base)))


def test_the_denoiser_and_the_text_encoder_learn_and_the_rest_is_the_bases_own(
    tmp_path: Path, base: Result
) -> None:
    context = Recorder(tmp_path)
    result = train(DiffusionTrainer(), more(tmp_path, folder_of(base)), context)
    before, after = weights(base), weights(result)
    assert before.keys() == after.keys()
    learned = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert learned == {"unet", "text_encoder"}
    for name in ("tokenizer/tokenizer.json", "scheduler/scheduler_config.json"):
        assert (folder_of(result) / name).read_bytes() == (folder_of(base) / name).read_bytes()
    for saved in folder_of(result).rglob("*.json"):
        assert str(folder_of(base)) not in saved.read_text(), f"{saved} says where the base lay"
    stages = [stage for stage in dict.fromkeys(p.stage for p in context.progress) if stage != "samples"]
    assert stages == ["dataset", "latents", "denoiser"]
    assert context.previews and context.previews[0].pixels.shape[0] == 32


def test_the_model_takes_what_its_base_takes_and_says_what_it_was(tmp_path: Path, base: Result) -> None:
    result = train(DiffusionTrainer(), more(tmp_path, folder_of(base)), Recorder(tmp_path))
    assert base.model is not None and result.model is not None
    assert result.model.input_schema == base.model.input_schema
    assert result.model.also == base.model.also
    assert result.model.input_schema["properties"]["width"]["default"] == 32
    assert result.model.description == "first, trained further on 3 captioned pictures."
    [samples, _] = result.outputs
    assert isinstance(samples, Image) and samples.pixels.shape[0] == 32


def test_a_training_that_was_stopped_goes_on_from_its_checkpoint_and_needs_no_base(
    tmp_path: Path, base: Result
) -> None:
    whole = Recorder(tmp_path / "whole")
    expected = weights(train(DiffusionTrainer(), more(tmp_path, folder_of(base)), whole))
    at = [i for i, progress in enumerate(whole.progress, 1) if progress.stage == "denoiser"][1]
    first = Recorder(tmp_path / "first", stop_at=at, reason=StopReason.DRAINING)
    with pytest.raises(Stopped):
        train(DiffusionTrainer(), more(tmp_path, folder_of(base)), first)
    second = Recorder(tmp_path / "second", resume=first.latest)
    result = train(DiffusionTrainer(), more(tmp_path, tmp_path / "gone"), second)
    assert [p.step for p in second.progress if p.stage == "denoiser"] == [3, 4]
    found = weights(result)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    scheduler = "scheduler/scheduler_config.json"
    assert (folder_of(result) / scheduler).read_bytes() == (folder_of(base) / scheduler).read_bytes()


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def lose_a_weight(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensors[name] for name in sorted(tensors)[1:]}, path)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another pipeline": (
        lambda folder: change(folder / "model_index.json", vae=["diffusers", "AutoencoderKL"]),
        "another vae",
    ),
    "no index": (lambda folder: (folder / "model_index.json").unlink(), "does not have the parts"),
    "another layout": (
        lambda folder: change(folder / "unet/config.json", attention_head_dim=8),
        "another attention_head_dim in its unet",
    ),
    "another depth": (
        lambda folder: change(folder / "vae/config.json", num_decoder_blocks=[4, 2, 2]),
        "another num_decoder_blocks in its vae",
    ),
    "no size of ours": (lambda folder: change(folder / "unet/config.json", sample_size=3), "is of a size"),
    "no size at all": (
        lambda folder: change(folder / "unet/config.json", sample_size=None),
        "cannot be read",
    ),
    "another prediction": (
        lambda folder: change(folder / "scheduler/scheduler_config.json", prediction_type="epsilon"),
        "predicts epsilon",
    ),
    "a longer vocabulary": (
        lambda folder: change(folder / "text_encoder/config.json", vocab_size=9999),
        "another vocab_size in its text_encoder",
    ),
    "a weight too few": (lose_a_weight, "cannot be read"),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer"), "cannot be read"),
}


@pytest.mark.parametrize(("damage", "said"), FAULTS.values(), ids=FAULTS)
def test_what_the_trainer_did_not_write_so_is_refused_before_any_step(
    tmp_path: Path, base: Result, damage: Callable[[Path], object], said: str
) -> None:
    copy = shutil.copytree(folder_of(base), tmp_path / "copy")
    damage(copy)
    context = Recorder(tmp_path)
    with pytest.raises(InvalidInput, match=f"^/input/base_model: first .*{said}.*; give a model") as raised:
        train(DiffusionTrainer(), more(tmp_path, copy), context)
    assert str(tmp_path) not in str(raised.value)
    assert {progress.stage for progress in context.progress} <= {"dataset"}
