"""From an engine's output to a file: one encoder for each type of output.

A family names encoders for types of its own; general code finds them by the type alone.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from shared.catalog.families import families
from worker.engines.contract.engine import File, Image
from worker.media.png import MEDIA_TYPE, encode_png, encode_preview


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A file that is ready to be stored."""

    content: bytes | Path
    media_type: str
    #: of its name, with the dot
    suffix: str
    #: what the medium has to say of itself: JSON, shown beside the media type
    facts: Mapping[str, Any] = field(default_factory=dict)


class Encoder(Protocol):
    """Both may be called by any thread, for several outputs at once."""

    def encode(self, output: Any, origin: Mapping[str, str]) -> Encoded:
        """The file of an output; ``origin`` says what made it, for formats that can hold that."""

    def preview(self, output: Any) -> bytes:
        """A small picture of something unfinished, as PNG, JPEG or WebP.

        Raises TypeError for a medium that shows none."""


class PictureEncoder:
    """PNG."""

    def encode(self, output: Image, origin: Mapping[str, str]) -> Encoded:
        height, width, _ = output.pixels.shape
        return Encoded(
            content=encode_png(output, origin),
            media_type=MEDIA_TYPE,
            suffix=".png",
            facts={"width": width, "height": height},
        )

    def preview(self, output: Image) -> bytes:
        return encode_preview(output)


class FileEncoder:
    """A finished file, stored as it is."""

    def encode(self, output: File, origin: Mapping[str, str]) -> Encoded:
        suffix = output.path.suffix or mimetypes.guess_extension(output.media_type) or ".bin"
        return Encoded(content=output.path, media_type=output.media_type, suffix=suffix)

    def preview(self, output: File) -> bytes:
        raise TypeError("a finished file has no preview")


def encoder_of(output: object) -> Encoder:
    """Raises TypeError for what no encoder takes: a fault of the engine that made it."""
    known = _encoders()
    for each in type(output).__mro__:
        if each in known:
            return known[each]
    taken = ", ".join(sorted(each.__name__ for each in known))
    raise TypeError(f"an engine gave a {type(output).__name__} as an output; there are encoders for {taken}")


@cache
def _encoders() -> Mapping[type, Encoder]:
    found: dict[type, Encoder] = {Image: PictureEncoder(), File: FileEncoder()}
    for family in families():
        for output, encoder in family.encoders.items():
            found[_named(output)] = _named(encoder)()
    return found


def _named(place: str) -> Any:
    """The class that ``module:Class`` names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
