"""Training a text-to-image model: it ends as a pipeline, stops and goes on exactly, and doubts its data."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file

from shared.catalog import tasks
from shared.errors import InvalidInput, JobError
from shared.schema.input_check import InputCheck
from tests.engines.contexts import Recorder
from tests.engines.training import read_pictures, train
from worker.engines.contract.engine import File, Image, Result, Stopped, StopReason, Work
from worker.engines.diffusion.training.trainer import DiffusionTrainer
from worker.engines.training.loop import Budget, Keeper, Loop
from worker.media import datasets as reading

TINY: dict[str, Any] = {
    "size": 16,
    "seed": 3,
    "steps": 4,
    "batch_size": 2,
    "channels": [16, 32],
    "latent_channels": 4,
    "text_channels": 32,
    "text_layers": 1,
    "vocabulary": 600,
    "tokens": 8,
    "autoencoder_steps": 4,
    "autoencoder_batch_size": 2,
    "autoencoder_channels": 8,
}
COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Nets this small gain nothing from more, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def square(colour: tuple[int, int, int], size: int = 16) -> bytes:
    pixels = np.full((size, size, 3), 255, np.uint8)
    pixels[size // 4 : -size // 4, size // 4 : -size // 4] = colour
    content = io.BytesIO()
    Pillow.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def pack(path: Path, entries: dict[str, bytes], lines: Sequence[object] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        if lines is not None:
            archive.writestr("metadata.jsonl", "\n".join(json.dumps(line) for line in lines))
    return path


def squares(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    entries = {f"{name}.png": square(colour) for name, colour in COLOURS.items()}
    lines = [{"file_name": f"{name}.png", "text": [f"{name} square", f"square, {name}"]} for name in COLOURS]
    return pack(folder / "squares.zip", entries, lines)


def work(dataset: Path, **changes: Any) -> Work:
    given = {**TINY, "dataset": str(dataset), "name": "tiny", **changes}
    check = InputCheck(tasks.load("train-diffusion"))
    return Work(job_id="job_1", task="train-diffusion", input=check.check(given, "/input"))


def weights(result: Result) -> dict[str, torch.Tensor]:
    assert result.model is not None
    found = {}
    for path in sorted(result.model.folder.rglob("*.safetensors")):
        found |= {f"{path.parent.name}.{name}": tensor for name, tensor in load_file(path).items()}
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Result]:
    """A training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    context = Recorder(folder)
    given = work(squares(folder), prompts=["red square", "blue square"])
    return context, train(DiffusionTrainer(), given, context)


def again(folder: Path, **how: Any) -> tuple[Recorder, Result]:
    """The same training, stopped or resumed as ``how`` says."""
    context = Recorder(folder, **how)
    given = work(squares(folder), prompts=["red square", "blue square"])
    return context, train(DiffusionTrainer(), given, context)


def boundary(whole: tuple[Recorder, Result], stage: str, nth: int) -> int:
    """Which boundary of the training was the stage's ``nth``, both from 1."""
    return [i for i, progress in enumerate(whole[0].progress, 1) if progress.stage == stage][nth - 1]


def test_the_trained_folder_is_a_pipeline_in_half_precision(whole: tuple[Recorder, Result]) -> None:
    model = whole[1].model
    assert model is not None and model.task == "text-to-image"
    assert {tensor.dtype for tensor in weights(whole[1]).values()} == {torch.float16}
    library: Any = diffusers
    pipe = library.DiffusionPipeline.from_pretrained(model.folder, dtype=torch.float32)
    [image] = pipe("red square", num_inference_steps=2, output_type="np").images
    assert image.shape == (16, 16, 3) and np.isfinite(image).all()


def test_the_model_is_an_output_too_beside_a_grid_of_samples(whole: tuple[Recorder, Result]) -> None:
    samples, archive = whole[1].outputs
    assert isinstance(samples, Image) and samples.pixels.shape[0] == 16
    assert isinstance(archive, File) and archive.media_type == "application/zip"
    with zipfile.ZipFile(archive.path) as opened:
        assert {"model_index.json", "unet/diffusion_pytorch_model.safetensors"} <= set(opened.namelist())


def test_progress_names_the_stages_in_order(whole: tuple[Recorder, Result]) -> None:
    progress = whole[0].progress
    stages = [stage for stage in dict.fromkeys(p.stage for p in progress) if stage != "samples"]
    assert stages == ["dataset", "autoencoder", "tokenizer", "latents", "denoiser"]
    assert [p.step for p in progress if p.stage == "denoiser"] == [1, 2, 3, 4]
    assert whole[0].previews


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_a_training_resumed_after_a_drain_ends_with_the_same_weights(
    tmp_path: Path, whole: tuple[Recorder, Result], stage: str
) -> None:
    first = Recorder(tmp_path, stop_at=boundary(whole, stage, 2), reason=StopReason.DRAINING)
    with pytest.raises(Stopped):
        train(DiffusionTrainer(), work(squares(tmp_path), prompts=["red square", "blue square"]), first)
    assert first.latest is not None
    second, resumed = again(tmp_path / "again", resume=first.latest)
    assert min(p.step for p in second.progress if p.stage == stage) == 3
    expected, found = weights(whole[1]), weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("stage", ["autoencoder", "latents", "denoiser", "samples"])
def test_cancel_ends_a_training_at_the_next_step(
    tmp_path: Path, whole: tuple[Recorder, Result], stage: str
) -> None:
    at = boundary(whole, stage, 1)
    stopped = Recorder(tmp_path, stop_at=at)
    with pytest.raises(Stopped):
        train(DiffusionTrainer(), work(squares(tmp_path), prompts=["red square", "blue square"]), stopped)
    assert len(stopped.progress) == at


def test_a_loss_that_is_no_number_says_what_to_lower(tmp_path: Path) -> None:
    net = torch.nn.Linear(1, 1)
    loop = Loop({"net": net}, Budget(steps=3), seed=0)
    with pytest.raises(JobError, match="lower learning rate"):
        loop.run(lambda _: net.weight.sum() / 0, "net", Keeper(Recorder(tmp_path)), lambda _: None)


def test_the_rate_rises_holds_and_falls() -> None:
    budget = Budget(steps=100, learning_rate=1.0, warmup=10, hold=0.5)
    rates = [budget.rate(step, 0.0) for step in (0, 9, 50, 75, 100)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.0])
    assert Budget(steps=100, minutes=1).spent(10, 30.0) == 0.5


def test_pictures_are_cut_to_a_square_on_white(tmp_path: Path) -> None:
    content = io.BytesIO()
    Pillow.new("RGBA", (32, 64), (255, 0, 0, 0)).save(content, "PNG")
    path = pack(tmp_path / "a.zip", {"x/a.png": content.getvalue()}, None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/metadata.jsonl", '{"file_name": "a.png", "text": "nothing", "weight": 2}\n\n')
    pictures = read_pictures(path, 16)
    assert pictures.captions == (("nothing",),) and pictures.weights.tolist() == [2.0]
    assert (
        pictures.places.tolist() == [0]
        and pictures.pixels.shape == (1, 3, 16, 16)
        and (pictures.pixels == 255).all()
    )


GOOD = {"a.png": square((1, 2, 3))}


@pytest.mark.parametrize(
    ("entries", "lines", "said"),
    [
        ({"../a.png": b""}, [], "must be relative"),
        ({"/etc/a.png": b""}, [], "must be relative"),
        ({"C:\\a.png": b""}, [], "must be relative"),
        (GOOD, None, "exactly one is needed"),
        (GOOD, [], "is empty"),
        (GOOD, ["a.png"], "must be an object with file_name"),
        (GOOD, [{"file_name": "a.png"}], "text must be a caption"),
        (GOOD, [{"file_name": "a.png", "text": [""]}], "1 to 1000 characters"),
        (GOOD, [{"file_name": "a.png", "text": "x" * 1001}], "1 to 1000 characters"),
        (GOOD, [{"file_name": "a.png", "text": "x", "weight": 0}], "weight must be"),
        (GOOD, [{"file_name": "b.png", "text": "x"}], "has no 'b.png'"),
        ({"a.png": b"not a picture"}, [{"file_name": "a.png", "text": "x"}], "is not a picture"),
        ({"a.png": GOOD["a.png"][:60]}, [{"file_name": "a.png", "text": "x"}], "is not a picture"),
    ],
)
def test_a_bad_archive_says_what_is_wrong(
    tmp_path: Path, entries: dict[str, bytes], lines: list[object] | None, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as raised:
        read_pictures(pack(tmp_path / "bad.zip", entries, lines), 16)
    assert raised.value.errors[0].pointer == "/input/dataset"


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 broken"])
def test_what_is_no_zip_says_how_to_pack_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.zip"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="zip -r"):
        read_pictures(path, 16)


def test_a_damaged_entry_is_the_archives_fault(tmp_path: Path) -> None:
    path = pack(tmp_path / "bad.zip", GOOD, [{"file_name": "a.png", "text": "x"}])
    content = bytearray(path.read_bytes())
    content[45:60] = bytes(15)  # inside the first entry's data
    path.write_bytes(content)
    with pytest.raises(InvalidInput):
        read_pictures(path, 16)


def test_a_compression_that_is_not_known_is_the_archives_fault(tmp_path: Path) -> None:
    path = pack(tmp_path / "odd.zip", GOOD, [{"file_name": "a.png", "text": "x"}])
    method_99 = re.sub(rb"(?s)(PK\x03\x04.{4}|PK\x01\x02.{6})..", b"\\1\x63\x00", path.read_bytes())
    path.write_bytes(method_99)
    with pytest.raises(InvalidInput, match="compression method is not supported"):
        read_pictures(path, 16)


def test_a_zip_bomb_is_never_unpacked_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_PICTURE_BYTES", 2**20)
    bomb = pack(tmp_path / "bomb.zip", {"a.png": bytes(2**24)}, [{"file_name": "a.png", "text": "x"}])
    with pytest.raises(InvalidInput, match="more than the 1 MiB"):
        read_pictures(bomb, 16)


def test_a_picture_that_claims_too_many_pixels_is_never_decoded(tmp_path: Path) -> None:
    """A PNG's header alone decides: 60,000 × 60,000 pixels would take 10 GB."""
    picture = bytearray(square((1, 2, 3)))
    picture[16:24] = struct.pack(">II", 60_000, 60_000)
    picture[29:33] = struct.pack(">I", zlib.crc32(picture[12:29]))
    bomb = pack(tmp_path / "wide.zip", {"a.png": bytes(picture)}, [{"file_name": "a.png", "text": "x"}])
    with pytest.raises(InvalidInput, match=r"pixels|picture"):
        read_pictures(bomb, 16)
