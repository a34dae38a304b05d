"""Pictures that people send: opened within limits, and cut to the size of the job."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from shared.errors import JobError
from tests.engines.training import Here
from worker.inputs import pictures
from worker.inputs.pictures import wanted_size
from worker.media.pictures import Kind

SCHEMA = {
    "properties": {
        "image": {"x-file": "image", "x-picture": "rgb"},
        "mask": {"x-file": "image", "x-picture": "mask"},
        "width": {"minimum": 64, "maximum": 128, "multipleOf": 16},
        "height": {"minimum": 64, "maximum": 128, "multipleOf": 16},
        "other": {"x-file": "image"},
    }
}


def open_picture(path: Path, field: str, kind: Kind = "rgb") -> PIL.Image.Image:
    return pictures.open_picture(Here(path.parent / "decoded"), path, field, kind)


def with_pictures(given: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return pictures.with_pictures(given, schema, open_picture)


def save(path: Path, picture: PIL.Image.Image, **options: Any) -> str:
    picture.save(path, **options)
    return str(path)


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(JobError) as caught:
        open_picture(path, "image")
    assert caught.value.type == "invalid-input" and not caught.value.retryable
    return caught.value.message


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_allowed_format_is_read_as_rgb(format: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    save(path, PIL.Image.new("RGB", (8, 4), (255, 0, 0)), format=format)
    picture = open_picture(path, "image")
    assert (picture.mode, picture.size) == ("RGB", (8, 4))
    red, green, blue = picture.getpixel((3, 2))  # type: ignore[misc]
    assert red > 240 and green < 15 and blue < 15


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    save(tmp_path / "a.png", PIL.Image.new("RGBA", (2, 2), (255, 0, 0, 0)))
    assert open_picture(tmp_path / "a.png", "image").getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.jpg", PIL.Image.new("RGB", (8, 4)), exif=exif)
    assert open_picture(tmp_path / "a.jpg", "image").size == (4, 8)


def test_a_mask_has_one_channel(tmp_path: Path) -> None:
    save(tmp_path / "a.png", PIL.Image.new("1", (2, 2), 1))
    mask = open_picture(tmp_path / "a.png", "mask", "mask")
    assert (mask.mode, mask.getpixel((0, 0))) == ("L", 255)


def test_what_is_no_picture_is_refused_with_the_formats_that_are_read(tmp_path: Path) -> None:
    assert "image: is no picture; send one of PNG, JPEG" in refused(tmp_path / "a.png", b"<svg/>")


def test_a_broken_picture_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    save(whole, PIL.Image.effect_noise((64, 64), 50))
    assert "image: the picture is broken" in refused(tmp_path / "a.png", whole.read_bytes()[:1000])


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(side: int, tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = b"IHDR" + header
    chunk = struct.pack(">I", len(header)) + body + struct.pack(">I", zlib.crc32(body))
    message = refused(tmp_path / "a.png", b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT")
    assert "pixels" in message and "at most 50 million" in message


@pytest.mark.parametrize(
    ("own", "given", "wanted"),
    [
        ((512, 512), {"width": 64, "height": 96}, (64, 96)),
        ((100, 90), {}, (96, 96)),
        ((1000, 500), {}, (128, 64)),
        ((4000, 500), {}, (128, 64)),
        ((10, 10), {}, (64, 64)),
        ((200, 100), {"height": 64}, (128, 64)),
        ((100, 200), {"width": 64}, (64, 128)),
    ],
)
def test_the_size_is_the_pictures_own_as_near_as_the_model_can(
    own: tuple[int, int], given: dict[str, int], wanted: tuple[int, int]
) -> None:
    assert wanted_size(own, given, SCHEMA["properties"]) == wanted


def test_picture_and_mask_are_cut_alike(tmp_path: Path) -> None:
    picture = PIL.Image.new("RGB", (200, 100))
    picture.paste((255, 255, 255), (100, 0, 200, 100))
    image = save(tmp_path / "a.png", picture)
    mask = save(tmp_path / "b.png", picture.convert("L"))
    given = with_pictures({"image": image, "mask": mask, "other": image, "width": 64, "height": 64}, SCHEMA)
    assert given["image"].size == given["mask"].size == (64, 64)
    assert given["other"] == image
    assert np.array_equal(np.asarray(given["image"])[..., 0], np.asarray(given["mask"]))


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", PIL.Image.new("RGB", (64, 64)))
    mask = save(tmp_path / "b.png", PIL.Image.new("L", (32, 64)))
    with pytest.raises(JobError, match="mask: is 32 x 64 pixels and image 64 x 64; they must be of one size"):
        with_pictures({"image": image, "mask": mask}, SCHEMA)


def test_an_input_without_pictures_stays_as_it_is() -> None:
    assert with_pictures({"prompt": "a"}, SCHEMA) == {"prompt": "a"}
