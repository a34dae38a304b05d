"""Training a GAN: it draws what it saw, stops, goes on exactly, and says what is wrong with its data."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file

from shared.errors import InvalidInput
from tests.engines.contexts import Recorder
from tests.engines.training import train
from worker.engines.contract.engine import File, Result, Stopped, StopReason, Work
from worker.engines.gan.engine import GanEngine, read_generator
from worker.engines.gan.trainer import GanTrainer
from worker.engines.training.augment import augment
from worker.engines.training.sample_grid import MARGIN

TINY = {"image_size": 16, "batch": 8, "width": 8, "latent": 8, "loss": "logistic", "r1": 1.0}
COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks are slower on several threads, many times so beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def archive(folder: Path, labels: Sequence[str | None] = ("red", "blue") * 8) -> Path:
    """Squares in the colour of their label."""
    path = folder / "squares.zip"
    with zipfile.ZipFile(path, "w") as opened:
        lines = []
        for index, label in enumerate(labels):
            pixels = np.full((16, 16, 3), 255, np.uint8)
            pixels[4:12, 4:12] = COLOURS.get(label or "red", (20, 220, 20))
            content = io.BytesIO()
            Pillow.fromarray(pixels).save(content, "PNG")
            opened.writestr(f"{index}.png", content.getvalue())
            line = {"file_name": f"{index}.png", "text": "a square"}
            lines.append(line | ({"label": label} if label else {}))
        opened.writestr("metadata.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return path


def work(dataset: Path, steps: int, **more: Any) -> Work:
    given = {**TINY, "dataset": str(dataset), "name": "tiny", "minutes": 1, "steps": steps, "seed": 3}
    return Work(job_id="job_1", task="train-gan", input=given | {"learning_rate": 0.004} | more)


def weights(result: Result) -> dict[str, torch.Tensor]:
    assert result.model is not None
    return load_file(result.model.folder / "model.safetensors")


@pytest.mark.slow
def test_a_tiny_gan_learns_what_a_label_means(tmp_path: Path) -> None:
    result = train(GanTrainer(), work(archive(tmp_path), 150), Recorder(tmp_path))
    assert result.value == {"steps": 150, "seconds": result.value and result.value["seconds"], "pictures": 16}
    assert result.model is not None
    assert result.model.input_schema["properties"]["label"]["enum"] == ["blue", "red"]

    generator = read_generator(result.model.folder).eval()
    for label, brightest in (("red", 0), ("blue", 2)):
        given = {"label": label, "truncation": 0.5, "num_images": 4, "seed": 0}
        made = GanEngine().run(
            generator, Work(job_id="job_2", task="", input=given), Recorder(tmp_path / label)
        )
        middle = np.mean([i.pixels[6:10, 6:10] for i in made.outputs if not isinstance(i, File)], (0, 1, 2))
        assert middle.argmax() == brightest


def test_the_strip_shows_the_training_from_its_first_step(tmp_path: Path) -> None:
    result = train(GanTrainer(), work(archive(tmp_path), 10), Recorder(tmp_path))
    strip, packed = result.outputs
    assert isinstance(strip, File)
    assert isinstance(packed, File)
    assert strip.media_type == "image/png"
    with Pillow.open(strip.path) as image:
        assert image.width == MARGIN + 15 * 16
        assert image.height == 16 * len({0, 1, 2, 3, 6, 10})  # the moments that ten steps tell apart
    with zipfile.ZipFile(packed.path) as opened:
        assert set(opened.namelist()) == {"config.json", "model.safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path: Path, loss: str) -> None:
    dataset = archive(tmp_path)
    whole = train(GanTrainer(), work(dataset, 14, loss=loss), Recorder(tmp_path / "whole"))

    first = Recorder(tmp_path / "first", stop_at=8, reason=StopReason.DRAINING)
    with pytest.raises(Stopped):
        train(GanTrainer(), work(dataset, 14, loss=loss), first)
    assert first.latest is not None
    second = Recorder(tmp_path / "second", resume=first.latest)
    resumed = train(GanTrainer(), work(dataset, 14, loss=loss), second)

    assert len([p for p in second.progress if p.stage == "train"]) == 14 - first.progress[-1].step
    expected, got = weights(whole), weights(resumed)
    assert all(expected[name].equal(got[name]) for name in expected)
    strips = [r.outputs[0] for r in (whole, resumed)]
    assert len({s.path.read_bytes() for s in strips if isinstance(s, File)}) == 1


def test_a_canceled_run_stops_at_once_and_keeps_nothing(tmp_path: Path) -> None:
    context = Recorder(tmp_path, stop_at=4, reason=StopReason.CANCELED)
    with pytest.raises(Stopped):
        train(GanTrainer(), work(archive(tmp_path), 500), context)
    assert context.progress[-1].step == 3
    assert context.latest is None


def test_pictures_without_labels_make_a_model_without_labels(tmp_path: Path) -> None:
    result = train(GanTrainer(), work(archive(tmp_path, [None] * 8), 2), Recorder(tmp_path))
    assert result.model is not None
    assert "label" not in result.model.input_schema["properties"]
    assert read_generator(result.model.folder).shape.labels == ()


def test_half_labelled_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="line 2 has no label"):
        train(GanTrainer(), work(archive(tmp_path, ["red", None, "blue"]), 2), Recorder(tmp_path))


def test_a_dataset_that_is_no_archive_says_how_to_make_one(tmp_path: Path) -> None:
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"not a zip")
    with pytest.raises(InvalidInput, match="zip -r") as caught:
        train(GanTrainer(), work(broken, 2), Recorder(tmp_path))
    assert caught.value.errors[0].pointer == "/input/dataset"


def test_augmentation_changes_pictures_and_lets_the_gradient_through() -> None:
    pictures = torch.rand(4, 3, 16, 16, requires_grad=True)
    changed = augment(pictures, torch.Generator().manual_seed(0))
    assert changed.shape == pictures.shape
    assert not changed.equal(pictures)
    changed.sum().backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0
