"""Outputs are encoded by their type."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from shared.catalog.entries.family import Family
from worker.engines.contract.engine import File, Image
from worker.media import encoders
from worker.media.encoders import Encoded, encoder_of


class Waveform:
    """An output that only a family of somebody's own has."""


class WaveformEncoder:
    def encode(self, output: Waveform, origin: dict[str, str]) -> Encoded:
        return Encoded(content=b"RIFF", media_type="audio/wav", suffix=".wav", facts={"duration": 1.5})


def test_a_picture_becomes_a_png_that_says_its_size_and_what_made_it() -> None:
    picture = Image(pixels=np.zeros((4, 6, 3), np.uint8), metadata={"seed": "7"})
    encoded = encoder_of(picture).encode(picture, {"model": "m"})
    assert (encoded.media_type, encoded.suffix, encoded.facts) == (
        "image/png",
        ".png",
        {"width": 6, "height": 4},
    )
    assert isinstance(encoded.content, bytes)
    read = PIL.Image.open(io.BytesIO(encoded.content))
    assert (read.size, read.info) == ((6, 4), {"seed": "7", "model": "m"})
    assert PIL.Image.open(io.BytesIO(encoder_of(picture).preview(picture))).size == (6, 4)


def test_a_finished_file_is_stored_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "strip"
    path.write_bytes(b"x")
    made = File(path=path, media_type="application/zip")
    encoded = encoder_of(made).encode(made, {})
    assert (encoded.content, encoded.media_type, encoded.suffix) == (path, "application/zip", ".zip")


def test_a_family_encodes_outputs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Waveform.__module__
    family = Family(name="sound", engines={}, encoders={f"{here}:Waveform": f"{here}:WaveformEncoder"})
    monkeypatch.setattr(encoders, "families", lambda: (family,))
    encoders._encoders.cache_clear()
    try:
        assert encoder_of(Waveform()).encode(Waveform(), {}).facts == {"duration": 1.5}
    finally:
        encoders._encoders.cache_clear()


def test_an_output_that_no_encoder_takes_is_named() -> None:
    with pytest.raises(TypeError, match="gave a dict as an output; there are encoders for File, Image"):
        encoder_of({})
