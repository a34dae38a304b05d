"""Files that shall break, fill or take over the worker that reads them; it says so and works on."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from shared.errors import JobError
from shared.files.store import FileStore, NewFile
from shared.states import Status
from tests.engines.training import Here
from tests.worker.conftest import Shop, shop
from worker.inputs.pictures import open_picture
from worker.media.pictures import FORMATS

__all__ = ["shop"]


def picture(format: str = "PNG", edge: int = 24) -> bytes:
    pixels = np.random.default_rng(7).integers(0, 256, (edge, edge, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def fuzzed(content: bytes, seed: int) -> bytes:
    """Some bytes changed, taken away or doubled; a PNG's checksums are mended, so that decoders go on."""
    chance = random.Random(seed)
    broken = bytearray(content)
    for _ in range(chance.randint(1, 12)):
        at = chance.randrange(len(broken))
        broken[at : at + chance.choice((0, 1, 1, 4))] = chance.randbytes(chance.choice((0, 1, 1, 4)))
    return _with_checksums(bytes(broken)) if content.startswith(b"\x89PNG") else bytes(broken)


def _with_checksums(png: bytes) -> bytes:
    mended, at = png[:8], 8
    while at + 8 <= len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        chunk = png[at + 4 : at + 8 + length]
        mended += png[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + length
    return mended


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 3_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def opened(path: Path) -> PIL.Image.Image:
    return open_picture(Here(path.parent / "decoded"), path, "image")


def outcome(path: Path) -> str:
    try:
        return opened(path).mode
    except JobError as error:
        return error.type


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow wonders at what it is given
@pytest.mark.parametrize("format", FORMATS)
def test_a_fuzzed_picture_is_opened_or_refused_and_nothing_else(format: str, tmp_path: Path) -> None:
    whole, path = picture(format), tmp_path / "picture"
    outcomes = set()
    for seed in range(150):
        path.write_bytes(fuzzed(whole, seed))
        outcomes.add(outcome(path))
    assert outcomes <= {"RGB", "invalid-input"} and "invalid-input" in outcomes


@pytest.mark.parametrize("size", [(30_000, 30_000), (2**31 - 1, 1), (1, 2**31 - 1), (100_000, 100_000)])
def test_a_picture_that_says_it_is_huge_is_refused_by_its_header(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(*size))
    with pytest.raises(JobError, match="image: ") as refused:
        opened(path)
    assert refused.value.type == "invalid-input"


def archive(**files: bytes) -> bytes:
    """A zip of a training; ``metadata`` is made for all that is not given."""
    names = [name for name in files if name != "metadata"]
    lines = [json.dumps({"file_name": name, "text": "a thing"}) for name in names]
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("metadata.jsonl", files.get("metadata", "\n".join(lines).encode()))
        for name in names:
            opened.writestr(name, files[name])
    return target.getvalue()


def archives() -> dict[str, bytes]:
    good = picture()
    return {
        "no zip": b"PK\x03\x04" + b"\xff" * 500,
        "a zip cut short": archive(**{"a.png": good})[:-30],
        "a fuzzed picture": archive(**{"a.png": good[:60] + b"\0\0\0\0" + good[64:200]}),
        "a picture that is a bomb": archive(**{"a.png": bomb(30_000, 30_000)}),
        "an entry that is a bomb": archive(**{"a.png": b"\0" * 300_000_000}),
        "metadata that is a bomb": archive(metadata=b" " * 200_000_000),
        "metadata 10,000 deep": archive(metadata=b"[" * 10_000 + b"]" * 10_000, **{"a.png": good}),
        "a way out": archive(**{"../../escaped.png": good}),
        "an absolute name": archive(**{"/tmp/escaped.png": good}),
    }


class _Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def pickled_pipeline(folder: Path, canary: Path, name: str) -> None:
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    (folder / "unet" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    (folder / "unet" / name).write_bytes(pickle.dumps(_Canary(canary)))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_outlives_what_it_is_given_and_says_what_was_wrong(shop: Shop, tmp_path: Path) -> None:
    canary = tmp_path / "code-was-run"
    names = ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.ckpt", "model.safetensors")
    lines = []
    for number, name in enumerate(names):
        pickled_pipeline(tmp_path / f"model{number}", canary, name)
        lines.append(f'[models.evil{number}]\ntask = "text-to-image"\nfolder = "model{number}"\n')
    catalog = tmp_path / "catalog.toml"
    catalog.write_text("\n".join(lines))
    # a lease that holds while libraries are imported on a busy machine
    shop.settings = shop.settings.with_(catalog=catalog, lease_seconds=30.0)
    shop.catalog = type(shop.catalog)(shop.settings, shop.database)
    worker = shop.worker()
    trainings = {}
    for what, content in archives().items():
        stored = shop.storage.write(f"files/{len(trainings)}", content)
        file = FileStore(shop.database).add(
            NewFile(
                tenant="default",
                filename="data.zip",
                purpose="dataset",
                media_type="application/zip",
                bytes=stored.bytes,
                sha256=stored.sha256,
                key=stored.key,
            )
        )
        trainings[what] = shop.draw(model="train-gan", name="mine", dataset=file.id)
    evil = [shop.draw(model=f"evil{number}") for number in range(len(names))]
    for what, job_id in trainings.items():
        job = shop.wait(job_id, 200)
        assert job.status is Status.FAILED and job.error is not None, what
        assert job.error["type"] == "invalid-input", f"{what}: {job.error}"
        assert not job.error["retryable"] and len(job.error["message"]) < 1000
    for job_id in evil:
        job = shop.wait(job_id, 200)
        assert job.status is Status.FAILED and job.error is not None
        assert job.error["type"] == "model-unavailable", job.error
    assert not canary.exists()
    assert list(tmp_path.rglob("escaped.png")) == [] and not Path("/tmp/escaped.png").exists()
    assert shop.wait(shop.draw()).status is Status.SUCCEEDED
    assert worker.process.poll() is None, worker.said()
