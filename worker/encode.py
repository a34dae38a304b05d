"""Pictures as PNG files that say how they were made."""

from __future__ import annotations

import io
from collections.abc import Mapping

import PIL.Image
from PIL.PngImagePlugin import PngInfo

from worker.engines.base import Image

MEDIA_TYPE = "image/png"
#: zlib's level: above it files get hardly smaller and take several times as long
_LEVEL = 4


def encode_png(image: Image, metadata: Mapping[str, str]) -> bytes:
    """The file's bytes. Each entry of the image's and of the given metadata is a text chunk of its own:
    ``tEXt`` where ASCII holds it, else ``iTXt``."""
    chunks = PngInfo()
    for key, text in {**image.metadata, **metadata}.items():
        if text.isascii():
            chunks.add_text(key, text)
        else:
            chunks.add_itxt(key, text)
    file = io.BytesIO()
    PIL.Image.fromarray(image.pixels).save(file, "PNG", pnginfo=chunks, compress_level=_LEVEL)
    return file.getvalue()
