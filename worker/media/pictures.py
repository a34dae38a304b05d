"""One picture that somebody sent, decoded: the one place that does. In a decoder only.

Its header says how many pixels a picture has, so that one of too many is refused before it is decoded.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping
from typing import Any, BinaryIO, Literal

import PIL.Image

# what ``FORMATS`` needs, loaded before a job waits for it
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,  # noqa: F401 - what ``read_picture`` writes by
    TiffImagePlugin,
    WebPImagePlugin,
)

from worker.media.limits import MOST_PIXELS
from worker.media.wire import Files, Report, Undecodable

#: what Pillow may take a file for; its other readers are for formats that nobody sends a model
FORMATS = tuple(
    plugin.format
    for plugin in (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
    )
)
#: the answer of ``read_picture``: width and height
SIZE = struct.Struct(">II")

Kind = Literal["rgb", "mask"]


def read_picture(files: Files, arguments: Mapping[str, Any], _: Report) -> bytes:
    """Writes the picture's pixels, row by row, three bytes each, or one where ``kind`` is ``mask``, behind
    ``head``."""
    picture = decode(files.sources[0], arguments["kind"])
    picture.save(files.targets[0], "PPM")  # without a second copy in memory, as ``tobytes`` makes one
    return SIZE.pack(*picture.size)


def head(mode: str, size: tuple[int, int]) -> bytes:
    """What stands before the pixels: that of a portable pixel map."""
    return b"%s\n%d %d\n255\n" % (b"P5" if mode == "L" else b"P6", *size)


def decode(file: BinaryIO, kind: Kind = "rgb", *, most_pixels: int = MOST_PIXELS) -> PIL.Image.Image:
    """The picture as it is meant to be seen: turned as its EXIF says, the first one of several, what is
    transparent on white. Mode ``RGB``, or ``L`` for a mask.

    Raises Undecodable, which says what is allowed, and MemoryError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow wonders at what it is given
            with PIL.Image.open(file, formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > most_pixels:
                    raise _too_many(f"{width} x {height} pixels", most_pixels)
                ImageOps.exif_transpose(picture, in_place=True)
                picture.load()
                return _of_mode(_on_white(picture), "L" if kind == "mask" else "RGB")
    except (Undecodable, MemoryError):
        raise
    except PIL.Image.DecompressionBombError:
        raise _too_many("its pixels", most_pixels) from None
    except PIL.UnidentifiedImageError:
        raise Undecodable(f"is no picture; send one of {', '.join(FORMATS)}") from None
    except Exception as error:  # whatever broken bytes make a decoder raise
        reason = str(error)[:200] or type(error).__name__
        raise Undecodable(f"the picture is broken ({reason}); send one that a viewer can open") from error


def _of_mode(picture: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    return picture if picture.mode == mode else picture.convert(mode)


def _on_white(picture: PIL.Image.Image) -> PIL.Image.Image:
    if not picture.has_transparency_data:
        return picture
    opaque = picture.convert("RGBA")
    white = PIL.Image.new("RGBA", opaque.size, "white")
    return PIL.Image.alpha_composite(white, opaque)


def _too_many(what: str, most: int) -> Undecodable:
    return Undecodable(f"{what} are too many; at most {most // 1_000_000} million are allowed")
