"""The pictures of starter-image: recoloured things have their colour, held-out words are in no caption."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from starters.emoji import (
    CLDR,
    FONT,
    HUES,
    SURPRISES,
    Picture,
    colour_of,
    dominant_hue,
    draw_all,
    recolour,
    words,
    write_archive,
)

needs_emoji = pytest.mark.skipif(
    not (FONT.exists() and CLDR.exists()),
    reason="apt-get install fonts-noto-color-emoji unicode-cldr-core",
)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return draw_all()


def _disc(red: int, green: int, blue: int) -> NDArray[np.uint8]:
    ground = np.full((64, 64, 3), 255, np.uint8)
    rows, columns = np.mgrid[:64, :64]
    ground[(rows - 32) ** 2 + (columns - 32) ** 2 < 500] = (red, green, blue)
    return ground


@pytest.mark.parametrize("colour", HUES)
def test_a_disc_of_any_hue_is_drawn_in_the_colour_asked_for(colour: str) -> None:
    for shade in [(200, 40, 40), (60, 160, 60), (90, 90, 220), (120, 110, 20)]:
        disc = _disc(*shade)
        hue = dominant_hue(disc)
        assert hue is not None
        assert colour_of(recolour(disc, hue, colour)) == colour


def test_the_colours_next_to_a_things_own_are_drawn_most_often(tmp_path: Path) -> None:
    """And recoloured pictures, however many, as often together as the others."""
    shade = _disc(210, 20, 20)
    hue = dominant_hue(shade)
    assert hue is not None
    pictures = [Picture(name="ball", noun="ball", colour=None, pixels=shade, captions=("ball",))] + [
        Picture(
            name=f"{c} ball", noun="ball", colour=c, pixels=recolour(shade, hue, c), captions=(f"{c} ball",)
        )
        for c in HUES
        if c != "red"
    ]
    write_archive(pictures, tmp_path / "balls.zip")
    with zipfile.ZipFile(tmp_path / "balls.zip") as archive:
        lines = [json.loads(line) for line in archive.read("metadata.jsonl").splitlines()]
    often = {line["text"][0].removesuffix(" ball"): line["weight"] for line in lines}
    assert often.pop("ball") == 1
    assert sum(often.values()) == pytest.approx(1, abs=1e-3)
    assert often["orange"] == often["pink"] == pytest.approx(5 * often["blue"], rel=1e-2)
    assert often["yellow"] == pytest.approx(2 * often["green"], rel=1e-2)


@pytest.mark.slow
@needs_emoji
def test_every_recoloured_picture_has_the_colour_it_is_called_by(pictures: list[Picture]) -> None:
    recoloured = [p for p in pictures if p.colour is not None]
    assert len(recoloured) > 2000
    assert [p.name for p in recoloured if colour_of(p.pixels) != p.colour] == []


@pytest.mark.slow
@needs_emoji
def test_held_out_words_come_together_in_no_caption(pictures: list[Picture]) -> None:
    held = [words(p.name) for p in pictures if p.held]
    names = {p.name for p in pictures if p.held}
    assert len(held) > 80
    assert sum(f"{colour} {noun}" in names for colour, noun in SURPRISES) > len(SURPRISES) / 2
    captions = {caption for picture in pictures if not picture.held for caption in picture.captions}
    for said in map(words, captions):
        assert not any(together <= said for together in held), said


@pytest.mark.slow
@needs_emoji
def test_an_archive_has_nothing_that_is_held_out(pictures: list[Picture], tmp_path: Path) -> None:
    few = [p for p in pictures if p.held][:5] + [p for p in pictures if not p.held][:20]
    write_archive(few, tmp_path / "emoji.zip")
    with zipfile.ZipFile(tmp_path / "emoji.zip") as archive:
        lines = [json.loads(line) for line in archive.read("metadata.jsonl").splitlines()]
        assert len(lines) == 20
        assert not {p.name for p in few if p.held} & {caption for line in lines for caption in line["text"]}
        first = Image.open(io.BytesIO(archive.read(lines[0]["file_name"])))
        assert np.array_equal(np.asarray(first), next(p for p in few if not p.held).pixels)
