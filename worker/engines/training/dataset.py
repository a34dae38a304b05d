"""Reads a training archive: a zip in Hugging Face's imagefolder layout, written by a stranger.

``metadata.jsonl`` has one JSON object a line: ``file_name``, ``text`` (a caption, or a list of captions to
draw from) and, if pictures shall not be drawn equally often, ``weight``; ``label`` names a class for trainers
that know classes, and is the caption where there is no other.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from shared.errors import InvalidInput

POINTER = "/input/dataset"
MAX_ENTRIES = 200_000
MAX_METADATA_BYTES = 64 * 2**20
MAX_PICTURE_BYTES = 32 * 2**20
MAX_PIXELS = 40_000_000
MAX_TENSOR_BYTES = 4 * 2**30
MAX_CAPTION = 1000
MAX_LABEL = 64
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """``pixels`` uint8 (count, 3, size, size), a tuple of captions for each, and how often each is drawn."""

    pixels: Tensor
    captions: tuple[tuple[str, ...], ...]
    #: float64 (count,), positive
    weights: Tensor
    #: the class of each picture, or None
    labels: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.captions)


def read_pictures(archive: Path, size: int) -> Pictures:
    """Raises InvalidInput, which names the entry or the line and what is allowed there."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return _read(opened, size)
    except (zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: packed in a way that it cannot undo
        raise _fault(f"is not a zip that can be read ({error}); pack it with: zip -r data.zip .") from error


def _fault(detail: str) -> InvalidInput:
    return InvalidInput.at(POINTER, detail)


def _read(archive: zipfile.ZipFile, size: int) -> Pictures:
    entries = _safe_entries(archive)
    metadata = [name for name in entries if PurePosixPath(name).name == "metadata.jsonl"]
    if len(metadata) != 1:
        raise _fault(
            f"has {len(metadata)} files named metadata.jsonl; exactly one is needed, a line for each picture:"
            ' {"file_name": "0001.png", "text": "a red apple"}'
        )
    root = PurePosixPath(metadata[0]).parent
    rows = _rows(_content(archive, entries[metadata[0]], MAX_METADATA_BYTES))
    if len(rows) * 3 * size * size > MAX_TENSOR_BYTES:
        raise _fault(f"has {len(rows)} pictures; at {size} pixels {MAX_TENSOR_BYTES // (3 * size**2)} fit")
    pixels = np.empty((len(rows), 3, size, size), np.uint8)
    for index, row in enumerate(rows):
        name = str(root / row["file_name"])
        if name not in entries:
            raise _fault(f"metadata.jsonl line {index + 1}: the archive has no {name!r}")
        content = _content(archive, entries[name], MAX_PICTURE_BYTES)
        pixels[index] = _picture(name, content, size).transpose(2, 0, 1)
    return Pictures(
        pixels=torch.from_numpy(pixels),
        captions=tuple(row["text"] for row in rows),
        weights=torch.tensor([row["weight"] for row in rows], dtype=torch.float64),
        labels=tuple(row["label"] for row in rows),
    )


def _safe_entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > MAX_ENTRIES:
        raise _fault(f"has {len(infos)} entries; at most {MAX_ENTRIES} are allowed")
    for info in infos:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename:
            raise _fault(
                f"has the entry {info.filename!r}; names must be relative, without '..', '\\' and ':'"
            )
        if info.flag_bits & 1:
            raise _fault(f"{info.filename!r} is encrypted; pack the archive without a password")
    return {str(PurePosixPath(info.filename)): info for info in infos}


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """The header's size may lie: never more than ``limit`` is unpacked."""
    with archive.open(info) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise _fault(f"{info.filename!r} unpacks to more than the {limit // 2**20} MiB that are allowed")
    return content


def _rows(content: bytes) -> list[dict[str, Any]]:
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise _fault(f"metadata.jsonl is not UTF-8 at byte {error.start}") from error
    rows = [_row(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise _fault("metadata.jsonl is empty; it needs a line for each picture")
    return rows


def _row(number: int, line: str) -> dict[str, Any]:
    where = f"metadata.jsonl line {number}"
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _fault(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
        raise _fault(f"{where} must be an object with file_name, a string")
    label = row.get("label")
    if not (label is None or (isinstance(label, str) and 0 < len(label) <= MAX_LABEL)):
        raise _fault(f"{where}: label must be a string of 1 to {MAX_LABEL} characters")
    text = row.get("text", label)
    captions = [text] if isinstance(text, str) else text
    if not isinstance(captions, list) or not captions:
        raise _fault(f"{where}: text must be a caption or a list of captions")
    if not all(isinstance(c, str) and 0 < len(c) <= MAX_CAPTION for c in captions):
        raise _fault(f"{where}: each caption must have 1 to {MAX_CAPTION} characters")
    weight = row.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= 1e6:
        raise _fault(f"{where}: weight must be a number above 0, at most 1000000")
    return {
        "file_name": row["file_name"],
        "text": tuple(captions),
        "weight": float(weight),
        "label": label,
    }


def _picture(name: str, content: bytes, size: int) -> NDArray[np.uint8]:
    """uint8 (size, size, 3): on white, scaled to cover the square, the middle of it."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _fault(
                    f"{name!r} has {image.width}×{image.height} pixels; at most {MAX_PIXELS} are allowed"
                )
            paper = Image.new("RGBA", image.size, "white")
            paper.alpha_composite(image.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _fault(
            f"{name!r} is not a picture that can be read; use one of {', '.join(FORMATS)}"
        ) from error
    edge = min(paper.size)
    left, top = (paper.width - edge) // 2, (paper.height - edge) // 2
    square = paper.convert("RGB").crop((left, top, left + edge, top + edge))
    if edge != size:
        square = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(square)
