"""Pictures that people send, opened: the one place where a file of theirs is decoded.

What a picture would take in memory is known from its header, so it is refused before it is decoded.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import PIL.Image
from PIL import ImageOps

from shared.errors import JobError

#: what Pillow may take a file for; its other readers are for formats that nobody sends a model
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
#: pixels of the largest picture, about 150 MB decoded
MOST_PIXELS = 50_000_000

Kind = Literal["rgb", "mask"]


def open_picture(path: Path, field: str, kind: Kind = "rgb") -> PIL.Image.Image:
    """The picture as it is meant to be seen: turned as its EXIF says, the first one of several, what is
    transparent on white. Mode ``RGB``, or ``L`` for a mask.

    Raises JobError of the type ``invalid-input`` that names ``field`` and what is allowed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # our limit is lower
            with PIL.Image.open(path, formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > MOST_PIXELS:
                    raise _refused(
                        f"{field}: {width} x {height} pixels are too many; "
                        f"at most {MOST_PIXELS // 1_000_000} million are allowed"
                    )
                return _on_white(ImageOps.exif_transpose(picture)).convert("L" if kind == "mask" else "RGB")
    except PIL.Image.DecompressionBombError:
        raise _refused(
            f"{field}: has too many pixels; at most {MOST_PIXELS // 1_000_000} million are allowed"
        ) from None
    except PIL.UnidentifiedImageError:
        raise _refused(f"{field}: is no picture; send one of {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what the decoders raise for broken files
        raise _refused(
            f"{field}: the picture is broken ({error}); send one that a viewer can open"
        ) from error


def _on_white(picture: PIL.Image.Image) -> PIL.Image.Image:
    if not picture.has_transparency_data:
        return picture
    opaque = picture.convert("RGBA")
    white = PIL.Image.new("RGBA", opaque.size, "white")
    return PIL.Image.alpha_composite(white, opaque)


def _refused(message: str) -> JobError:
    return JobError(message, type="invalid-input")
