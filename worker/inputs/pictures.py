"""A job's pictures, decoded in the sandbox and brought to the size that the job is computed at.

Which inputs are pictures says the schema: ``x-picture`` is ``rgb`` or ``mask``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import PIL.Image
from PIL import ImageOps

from shared.errors import JobError
from shared.schema.marks import changed
from worker.inputs.reading import Reader
from worker.media.limits import MOST_PIXELS, PICTURE
from worker.media.pictures import SIZE, Kind, head
from worker.media.wire import Undecodable

Size = tuple[int, int]
#: the picture in a file, which an input of that name holds
Open = Callable[[Path, str, Kind], PIL.Image.Image]


def open_picture(reader: Reader, path: Path, field: str, kind: Kind = "rgb") -> PIL.Image.Image:
    """The picture as it is meant to be seen; mode ``RGB``, or ``L`` for a mask.

    Raises JobError of the type ``invalid-input`` that names ``field`` and what is allowed, and what
    ``Reader.read`` raises."""
    try:
        answer, [file] = reader.read("picture", [path], ["pixels"], PICTURE, {"kind": kind})
        return _picture(answer, file, "L" if kind == "mask" else "RGB")
    except Undecodable as error:
        raise JobError(f"{field}: {error}", type="invalid-input") from error


def _picture(answer: bytes, file: Path, mode: str) -> PIL.Image.Image:
    """What the decoder wrote, none of which is believed."""
    width, height = SIZE.unpack(answer) if len(answer) == SIZE.size else (0, 0)
    begin = head(mode, (width, height))
    if (
        not 0 < width * height <= MOST_PIXELS
        or file.stat().st_size != len(begin) + width * height * len(mode)
        or not (content := file.read_bytes()).startswith(begin)
    ):
        raise Undecodable("confuses its decoder; save it anew with another program and send that")
    file.unlink()
    return PIL.Image.frombytes(mode, (width, height), memoryview(content)[len(begin) :])


def with_pictures(given: Mapping[str, Any], schema: Mapping[str, Any], open_: Open) -> dict[str, Any]:
    """The input with ``PIL.Image`` in place of the paths of pictures, all of one size, and with that size as
    ``width`` and ``height`` where the job did not say one.

    Raises JobError for a file that is no picture, and for pictures of different sizes."""
    pictures: dict[str, PIL.Image.Image] = {}

    def opened(kind: Any, path: Any, pointer: str) -> Any:
        if not isinstance(path, str):
            return path
        pictures[pointer[1:]] = open_(Path(path), pointer[1:], kind)
        return pictures[pointer[1:]]

    def fitted(_: Any, picture: Any, __: str) -> Any:
        return fit(picture, size) if isinstance(picture, PIL.Image.Image) else picture

    found = changed(schema, given, "x-picture", opened)
    if not pictures:
        return dict(given)
    _check_alike(pictures)
    first = next(iter(pictures.values()))
    size = wanted_size(first.size, given, schema.get("properties", {}))
    return {**changed(schema, found, "x-picture", fitted), "width": size[0], "height": size[1]}


def wanted_size(own: Size, given: Mapping[str, Any], rules: Mapping[str, Any]) -> Size:
    """Width and height as given; where both are left out, the picture's own, where one is, in the picture's
    proportions: as near as the schema's limits let them be."""
    wide, tall = rules.get("width", {}), rules.get("height", {})
    width, height = given.get("width"), given.get("height")
    if width is not None:
        scale = width / own[0]
    elif height is not None:
        scale = height / own[1]
    else:
        scale = min(1.0, wide.get("maximum", own[0]) / own[0], tall.get("maximum", own[1]) / own[1])
    return (
        _allowed(own[0] * scale, wide) if width is None else int(width),
        _allowed(own[1] * scale, tall) if height is None else int(height),
    )


def fit(picture: PIL.Image.Image, size: Size) -> PIL.Image.Image:
    """The picture's middle in the shape of ``size``, scaled to it."""
    return picture if picture.size == size else ImageOps.fit(picture, size, PIL.Image.Resampling.LANCZOS)


def _allowed(length: float, rule: Mapping[str, Any]) -> int:
    """The length nearest to this one that the schema allows."""
    step = int(rule.get("multipleOf", 1))
    least = -(-int(rule.get("minimum", step)) // step) * step
    most = int(rule.get("maximum", max(length, least))) // step * step
    return int(min(max(round(length / step) * step, least), most))


def _check_alike(pictures: Mapping[str, PIL.Image.Image]) -> None:
    (name, first), *others = pictures.items()
    for other, picture in others:
        if picture.size != first.size:
            raise JobError(
                f"{other}: is {picture.width} x {picture.height} pixels and {name} "
                f"{first.width} x {first.height}; they must be of one size",
                type="invalid-input",
            )
