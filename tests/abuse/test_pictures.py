"""Pictures that shall fill, hang or break their decoder, given to a real one: it decodes or refuses them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from shared.errors import JobError
from worker.inputs.pictures import open_picture
from worker.inputs.reading import JobReader
from worker.media.limits import MOST_PIXELS
from worker.media.pictures import FORMATS
from worker.media.sandbox import Sandbox

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox()
    yield made
    made.close()


def saved(mode: str, size: tuple[int, int], format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.new(mode, size).save(file, format, **options)
    return file.getvalue()


def frames(format: str, count: int, edge: int = 8) -> bytes:
    """Frames that differ, so that none is left out."""
    each = [PIL.Image.new("RGB", (edge, edge), (index % 256, index // 256, 0)) for index in range(count)]
    file = io.BytesIO()
    each[0].save(file, format, save_all=True, append_images=each[1:])
    return file.getvalue()


def png(*chunks: tuple[bytes, bytes], size: tuple[int, int] = (8, 8), rows: bytes = bytes(200)) -> bytes:
    head = (b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    parts = [head, *chunks, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


ZEROS = zlib.compress(bytes(200_000_000), 9)


def tiff(*tags: tuple[int, int, int, int], follow: int = 0) -> bytes:
    """A TIFF with these tags (number, type, count, value), whose next directory is at ``follow``."""
    found = {256: (3, 1, 8), 257: (3, 1, 8), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    found |= {273: (4, 1, 400), 278: (3, 1, 8), 279: (4, 1, 64)}
    found |= {number: (kind, count, value) for number, kind, count, value in tags}
    entries = b"".join(struct.pack("<HHII", number, *found[number]) for number in sorted(found))
    whole = b"II*\0" + struct.pack("<IH", 8, len(found)) + entries + struct.pack("<I", follow)
    return whole.ljust(400, b"\0") + bytes(64)


def jpeg_with_exif(exif: bytes) -> bytes:
    whole = saved("RGB", (8, 8), "JPEG")
    body = b"Exif\0\0" + exif
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + whole[2:]


HOSTILE: dict[str, Callable[[], bytes]] = {
    "PNG of 900 million pixels": lambda: png(size=(30_000, 30_000)),
    "PNG of 2^31 rows": lambda: png(size=(1, 2**31 - 1)),
    "PNG whose rows never end": lambda: png(rows=bytes(300_000_000)),
    "PNG with a compressed text of 200 MB": lambda: png((b"zTXt", b"a\0\0" + ZEROS)),
    "PNG with a colour profile of 200 MB": lambda: png((b"iCCP", b"a\0\0" + ZEROS)),
    "PNG with an international text of 200 MB": lambda: png((b"iTXt", b"a\0\1\0\0\0" + ZEROS)),
    "PNG with 20,000 texts": lambda: png(*[(b"tEXt", b"a%d\0b" % n) for n in range(20_000)]),
    "PNG that promises 2^31 frames": lambda: png((b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    "GIF of 5,000 frames": lambda: frames("GIF", 5000),
    "GIF whose frame is larger than its screen": lambda: saved("RGB", (8, 8), "GIF").replace(
        b"\x2c\0\0\0\0\x08\0\x08\0", b"\x2c\0\0\0\0\xff\xff\xff\xff"
    ),
    "WebP of 500 frames": lambda: frames("WEBP", 500),
    "WebP of 268 million pixels": lambda: saved("RGB", (16383, 8), "WEBP", lossless=True).replace(
        struct.pack("<I", 16382 | 7 << 14)[:3], struct.pack("<I", 16382 | 16382 << 14)[:3]
    ),
    "TIFF of 500 pages": lambda: frames("TIFF", 500),
    "TIFF whose directories go round": lambda: tiff(follow=8),
    "TIFF with a tag of 2^32 values": lambda: tiff((700, 1, 2**32 - 1, 8)),
    "TIFF with 2^32 strips": lambda: tiff((273, 4, 2**32 - 1, 8), (279, 4, 2**32 - 1, 8)),
    "TIFF of 65,535 bits a sample": lambda: tiff((258, 3, 1, 65535), (277, 3, 1, 65535)),
    "TIFF with tiles of 2^31 pixels": lambda: tiff((322, 4, 1, 2**31), (323, 4, 1, 2**31), (324, 4, 1, 8)),
    "TIFF of no pixels": lambda: tiff((256, 3, 1, 0), (257, 3, 1, 0)),
    "TIFF in an unknown compression": lambda: tiff((259, 3, 1, 34_676)),
    "TIFF in broken LZW": lambda: tiff((259, 3, 1, 5)),
    "TIFF in broken JPEG": lambda: tiff((259, 3, 1, 7), (347, 7, 2**31, 8)),
    "BMP of -2^31 rows": lambda: saved("RGB", (8, 8), "BMP")[:22] + struct.pack("<i", -(2**31)) + bytes(300),
    "BMP of runs that never end": lambda: (
        saved("L", (8, 8), "BMP")[:30] + struct.pack("<I", 1) + bytes(2000) + b"\xff\0" * 100_000
    ),
    "JPEG with a directory of EXIF that goes round": lambda: jpeg_with_exif(
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    ),
    "JPEG with an EXIF tag of 2^32 values": lambda: jpeg_with_exif(
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x112, 3, 2**32 - 1, 8) + bytes(4)
    ),
    "JPEG of 65,535 by 65,535 pixels": lambda: saved("RGB", (8, 8), "JPEG").replace(
        b"\0\x11\x08\0\x08\0\x08", b"\0\x11\x08\xff\xff\xff\xff"
    ),
}


def outcome(sandbox: Sandbox, path: Path) -> tuple[int, int] | str:
    """The picture's size, or why it is refused."""
    try:
        return open_picture(JobReader(sandbox, path.parent / "decoded"), path, "image").size
    except JobError as error:
        return f"{error.type}: {error.message}"


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_picture_is_decoded_or_refused(
    sandbox: Sandbox, tmp_path: Path, make: Callable[[], bytes]
) -> None:
    path = tmp_path / "sent"
    path.write_bytes(make())
    match outcome(sandbox, path):
        case (width, height):
            assert width * height <= MOST_PIXELS
        case str(said):
            assert said.startswith("invalid-input: image: ") and "crash" not in said


@pytest.mark.parametrize("format", FORMATS)
def test_a_picture_cut_anywhere_is_decoded_or_refused(sandbox: Sandbox, tmp_path: Path, format: str) -> None:
    file = io.BytesIO()
    PIL.Image.effect_noise((48, 48), 80).convert("RGB").save(file, format)
    whole, path = file.getvalue(), tmp_path / "sent"
    found = []
    for part in range(1, 12):
        path.write_bytes(whole[: len(whole) * part // 12])
        found.append(outcome(sandbox, path))
    refused = [one for one in found if isinstance(one, str)]
    assert refused and all(one.startswith("invalid-input: image: ") for one in refused)
    assert {one for one in found if not isinstance(one, str)} <= {(48, 48)}


def test_a_picture_of_the_most_pixels_has_room_turned_and_with_transparency(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "sent.png"
    PIL.Image.new("RGBA", (5000, 10_000), (10, 20, 30, 0)).save(path, exif=exif, compress_level=1)
    picture = open_picture(JobReader(sandbox, tmp_path / "decoded"), path, "image")
    assert picture.size == (10_000, 5000) and picture.getpixel((9999, 4999)) == (255, 255, 255)
