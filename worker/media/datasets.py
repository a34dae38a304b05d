"""A training archive: a zip in Hugging Face's imagefolder layout, written by a stranger. In a decoder only.

``metadata.jsonl`` has one JSON object a line: ``file_name``, ``text`` (a caption, or a list of captions to
draw from) and, if pictures shall not be drawn equally often, ``weight``; ``label`` names a class for trainers
that know classes, and is the caption where there is no other.

Each picture is decoded once, however many lines name it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import orjson
import PIL.Image

from worker.media.archives import Archive, shown
from worker.media.bpe import train
from worker.media.pictures import FORMATS, decode
from worker.media.wire import Files, Report, Undecodable

MAX_METADATA_BYTES = 64 * 2**20
#: bytes of a line of the metadata
MAX_LINE = 2**20
MAX_ROWS = 200_000
MAX_PICTURE_BYTES = 32 * 2**20
MAX_PIXELS = 40_000_000
#: pixels of all pictures together: 20,000 photographs of a million, some five minutes' work for one core
MAX_TOTAL_PIXELS = 20_000_000_000
#: bytes of all pictures at the size that is learned
MAX_ARRAY_BYTES = 4 * 2**30
#: characters of a caption, and captions of all pictures together
MAX_CAPTION, MAX_CAPTIONS = 1000, 500_000
#: characters of a label, and different ones
MAX_LABEL, MAX_LABELS = 64, 1000
#: the answer of ``read_pictures``: pictures, and rows that name them
COUNTS = struct.Struct(">II")


def read_pictures(files: Files, arguments: Mapping[str, Any], report: Report) -> bytes:
    """Reads the archive at ``size``. Writes the pictures, uint8 (pictures, 3, size, size), and a line of JSON
    for each row: the picture's number, its weight, its label and its captions. Where ``tokenizer`` says how,
    a tokenizer is trained on the captions and written too.

    Raises Undecodable, which names the entry or the line and what is allowed there."""
    size = int(arguments["size"])
    archive = Archive(files.sources[0])
    rows = list(_rows(archive))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row["file_name"] for row in rows))}
    if len(numbers) * 3 * size * size > MAX_ARRAY_BYTES:
        raise Undecodable(
            f"has {len(numbers)} pictures; at {size} pixels {MAX_ARRAY_BYTES // (3 * size**2)} fit"
        )
    _write_pixels(archive, list(numbers), size, files.targets[0], report)
    for row in rows:
        line = [numbers[row["file_name"]], row["weight"], row["label"], row["text"]]
        files.targets[1].write(orjson.dumps(line) + b"\n")
    if (plan := arguments.get("tokenizer")) is not None:
        files.targets[2].write(train(plan, (text for row in rows for text in row["text"])).to_str().encode())
    return COUNTS.pack(len(numbers), len(rows))


def _write_pixels(archive: Archive, names: list[str], size: int, target: BinaryIO, report: Report) -> None:
    left = MAX_TOTAL_PIXELS
    for index, name in enumerate(names):
        report(index, len(names))
        picture = _picture(name, archive.content(name, MAX_PICTURE_BYTES))
        left -= picture.width * picture.height
        if left < 0:
            raise Undecodable(
                f"has more than {MAX_TOTAL_PIXELS // 10**9} billion pixels in all its pictures; scale them "
                f"to about {size} pixels before you pack them"
            )
        target.writelines(band.tobytes() for band in _square(picture, size).split())


def _rows(archive: Archive) -> Iterator[dict[str, Any]]:
    metadata = [name for name in archive.entries if PurePosixPath(name).name == "metadata.jsonl"]
    if len(metadata) != 1:
        raise Undecodable(
            f"has {len(metadata)} files named metadata.jsonl; exactly one is needed, a line for each picture:"
            ' {"file_name": "0001.png", "text": "a red apple"}'
        )
    root = PurePosixPath(metadata[0]).parent
    rows, captions, labels = 0, 0, set[str]()
    for number, line in enumerate(archive.lines(metadata[0], MAX_METADATA_BYTES, MAX_LINE), 1):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.strip():
            continue
        row = _row(number, line)
        row["file_name"] = name = str(root / row["file_name"])
        if name not in archive.entries:
            raise Undecodable(f"metadata.jsonl line {number}: the archive has no {shown(name)}")
        rows, captions = rows + 1, captions + len(row["text"])
        labels.add(row["label"] or "")
        for count, most, what in (
            (rows, MAX_ROWS, "lines"),
            (captions, MAX_CAPTIONS, "captions"),
            (len(labels - {""}), MAX_LABELS, "different labels"),
        ):
            if count > most:
                raise Undecodable(f"metadata.jsonl has more than the {most} {what} that are allowed")
        yield row
    if not rows:
        raise Undecodable("metadata.jsonl is empty; it needs a line for each picture")


def _row(number: int, line: bytes) -> dict[str, Any]:
    where = f"metadata.jsonl line {number}"
    try:
        line.decode("utf-8")
        row = orjson.loads(line)
    except UnicodeDecodeError as error:
        raise Undecodable(f"{where} is not UTF-8 at byte {error.start}") from error
    except orjson.JSONDecodeError as error:
        raise Undecodable(f"{where} is not JSON: {str(error)[:200]}") from error
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
        raise Undecodable(f"{where} must be an object with file_name, a string")
    label = row.get("label")
    if not (label is None or (isinstance(label, str) and 0 < len(label) <= MAX_LABEL)):
        raise Undecodable(f"{where}: label must be a string of 1 to {MAX_LABEL} characters")
    text = row.get("text", label)
    captions = [text] if isinstance(text, str) else text
    if not isinstance(captions, list) or not captions:
        raise Undecodable(f"{where}: text must be a caption or a list of captions")
    if not all(isinstance(c, str) and 0 < len(c) <= MAX_CAPTION for c in captions):
        raise Undecodable(f"{where}: each caption must have 1 to {MAX_CAPTION} characters")
    weight = row.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= 1e6:
        raise Undecodable(f"{where}: weight must be a number above 0, at most 1000000")
    return {"file_name": row["file_name"], "text": captions, "weight": float(weight), "label": label}


def _picture(name: str, content: bytes) -> PIL.Image.Image:
    try:
        return decode(io.BytesIO(content), most_pixels=MAX_PIXELS)
    except Undecodable as error:
        raise Undecodable(
            f"{shown(name)} is not a picture that can be read ({error}); use one of {', '.join(FORMATS)}"
        ) from error


def _square(picture: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """RGB (size, size): scaled to cover the square, the middle of it."""
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    square = picture.crop((left, top, left + edge, top + edge))
    return square if edge == size else square.resize((size, size), PIL.Image.Resampling.LANCZOS)
