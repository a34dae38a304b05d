"""Pictures as PNG files that say how they were made."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import PIL.Image
from PIL.PngImagePlugin import PngInfo

from worker.engines.contract.engine import Image

MEDIA_TYPE = "image/png"
#: zlib's level: above it files get hardly smaller and take several times as long
_LEVEL = 4
#: the same for what is seen once: half the time for files that are a tenth larger
_PREVIEW_LEVEL = 1


def encode_png(image: Image, metadata: Mapping[str, str]) -> bytes:
    """The file's bytes. Each entry of the image's and of the given metadata is a text chunk of its own:
    ``tEXt`` where ASCII holds it, else ``iTXt``."""
    chunks = PngInfo()
    for key, text in {**image.metadata, **metadata}.items():
        if text.isascii():
            chunks.add_text(key, text)
        else:
            chunks.add_itxt(key, text)
    return _encode(image, _LEVEL, pnginfo=chunks)


def encode_preview(image: Image) -> bytes:
    """The bytes of a PNG that says nothing of itself."""
    return _encode(image, _PREVIEW_LEVEL)


def _encode(image: Image, level: int, **more: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image.pixels).save(file, "PNG", compress_level=level, **more)
    return file.getvalue()
