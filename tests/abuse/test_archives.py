"""Archives and corpora of trainings, broken and hostile: each is read, or refused with the cure."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from shared.errors import InvalidInput
from tests.engines.training import Here, read_pictures
from worker.engines.contract.datasets import TextWanted
from worker.engines.text.trainer import TextTrainer
from worker.inputs.datasets import read_dataset
from worker.media import archives, corpora, datasets

METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflate": zipfile.ZIP_DEFLATED,
    "bz2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


def picture(format: str = "PNG", edge: int = 8, seed: int = 7) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (edge, edge, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def packed(method: int = zipfile.ZIP_DEFLATED, files: dict[str, bytes] | None = None, rows: int = 1) -> bytes:
    """An archive of pictures, each of which so many rows name."""
    files = {"a.png": picture(), "b.jpg": picture("JPEG")} if files is None else files
    lines = [json.dumps({"file_name": name, "text": f"thing {name}"}) for name in files] * rows
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as opened:
        opened.writestr("metadata.jsonl", "\n".join(lines))
        for name, content in files.items():
            opened.writestr(name, content)
    return target.getvalue()


def refusal(folder: Path, content: bytes, size: int = 16) -> str:
    """Why the archive is refused; empty where it is read."""
    path = folder / "data.zip"
    path.write_bytes(content)
    try:
        read_pictures(path, size)
    except InvalidInput as error:
        [fault] = error.errors
        assert fault.pointer == "/input/dataset" and len(fault.detail) < 1000
        return fault.detail
    except MemoryError:  # the sandbox says so of it: tests/worker/test_sandbox.py
        return "needs more memory"
    return ""


def flipped(content: bytes, seed: int) -> bytes:
    """Some bytes changed, lost, doubled or cut off."""
    chance = random.Random(seed)
    broken = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(broken))
        match chance.randrange(4):
            case 0:
                broken[at] ^= 1 << chance.randrange(8)
            case 1:
                broken[at : at + chance.choice((1, 4))] = b""
            case 2:
                broken[at:at] = chance.randbytes(chance.choice((1, 4)))
            case _:
                broken[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, chance.randbytes(4)))
    return bytes(broken[: chance.randrange(1, len(broken))] if chance.random() < 0.1 else broken)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of names that two entries have
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_fuzzed_archive_is_read_or_refused_and_nothing_else(method: int, tmp_path: Path) -> None:
    whole = packed(method)
    said = {refusal(tmp_path, flipped(whole, seed)) for seed in range(300)}
    assert len(said) > 5


def changed(content: bytes, name: str, at: int, new: bytes, *, local: bool = True) -> bytes:
    """The archive with other bytes in an entry's headers, at a place of the local one."""
    shift = {4: 6, 6: 8, 8: 10, 10: 12, 14: 16, 18: 20, 22: 24}[at]
    found = bytearray(content)
    for mark, place, wanted in ((b"PK\x03\x04", at, local), (b"PK\x01\x02", shift, True)):
        header = {b"PK\x03\x04": 30, b"PK\x01\x02": 46}[mark]
        for start in [one.start() for one in re.finditer(re.escape(mark), content)]:
            if wanted and content[start + header :].startswith(name.encode()):
                found[start + place : start + place + len(new)] = new
    return bytes(found)


def damaged(method: int) -> bytes:
    """The bytes of ``a.png`` are not what its compression makes."""
    content = packed(method, {"a.png": picture(edge=64)})
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        info = opened.getinfo("a.png")
    start = info.header_offset + 30 + len("a.png")
    end = start + info.compress_size
    return content[:start] + content[start : start + 12] + b"\xa5" * (end - start - 12) + content[end:]


def overlapping() -> bytes:
    """Two entries of the directory that are one in the file."""
    content = packed(files={"a.png": picture(), "b.png": picture(seed=8)})
    first = [one.start() for one in re.finditer(rb"PK\x03\x04", content)][1]
    at = [one.start() for one in re.finditer(rb"PK\x01\x02", content)][2]
    return content[: at + 42] + struct.pack("<I", first) + content[at + 46 :]


def twice() -> bytes:
    target = io.BytesIO(packed())
    with zipfile.ZipFile(target, "a") as opened, pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr("a.png", picture(seed=9))
    return target.getvalue()


def of_several_disks() -> bytes:
    """The last part of an archive that was split."""
    content = packed(files={"a.png": picture(edge=64)})
    at = content.rindex(b"PK\x05\x06")
    return content[500 : at + 4] + struct.pack("<HHHH", 1, 0, 2, 2) + content[at + 12 :]


def with_zip64(sizes: int) -> bytes:
    """An extra field that says what only 64 bits hold."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as opened:
        opened.writestr("metadata.jsonl", '{"file_name": "a.png", "text": "a"}')
        info = zipfile.ZipInfo("a.png")
        info.extra = struct.pack("<HHQQ", 1, 16, sizes, sizes)
        opened.writestr(info, picture())
    return changed(target.getvalue(), "a.png", 18, b"\xff" * 8, local=False)


def with_names(name: str) -> bytes:
    return packed(files={name: picture()})


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "broken deflate": (lambda: damaged(zipfile.ZIP_DEFLATED), "'a.png' cannot be unpacked .*zip -r"),
    "broken bz2": (lambda: damaged(zipfile.ZIP_BZIP2), "'a.png' cannot be unpacked .*zip -r"),
    "broken lzma": (lambda: damaged(zipfile.ZIP_LZMA), "'a.png' cannot be unpacked .*zip -r"),
    "broken bytes": (lambda: damaged(zipfile.ZIP_STORED), "'a.png' .*(unpacked|not a picture)"),
    "a wrong checksum": (
        lambda: changed(packed(), "a.png", 14, b"\1\2\3\4"),
        "'a.png' cannot be unpacked .*CRC",
    ),
    "zstd": (
        lambda: changed(packed(), "a.png", 8, struct.pack("<H", 93)),
        "'a.png' cannot be unpacked .*zip -r",
    ),
    "an unknown method": (
        lambda: changed(packed(), "a.png", 8, struct.pack("<H", 99)),
        "'a.png' cannot be unpacked .*compression method is not supported",
    ),
    "encrypted": (lambda: changed(packed(), "a.png", 6, b"\1\0"), "'a.png' is encrypted"),
    "strongly encrypted": (lambda: changed(packed(), "a.png", 6, b"\x40\0"), "'a.png' cannot be unpacked"),
    "patched": (lambda: changed(packed(), "a.png", 6, b"\x20\0"), "'a.png' cannot be unpacked"),
    "of a version to come": (lambda: changed(packed(), "a.png", 4, b"\xff\0"), "not a zip that can be read"),
    "another name inside": (
        lambda: packed().replace(b"a.png", b"c.png", 2).replace(b"c.png", b"a.png", 1),
        "'a.png'|has no",
    ),
    "overlapping entries": (overlapping, "has overlapping entries 'a.png' and 'b.png'"),
    "one name twice": (twice, "has two entries named 'a.png'"),
    "of several disks": (of_several_disks, "zip -r"),
    "larger than 64 bits": (lambda: with_zip64(2**64 - 1), "'a.png'|zip"),
    "an entry of 2^40 bytes": (lambda: with_zip64(2**40), "'a.png'|zip"),
    "a size that lies": (
        lambda: changed(packed(), "a.png", 22, struct.pack("<I", 2**31 - 1)),
        "'a.png' is not of the size that the archive says",
    ),
    "a name of 60,000 letters": (lambda: with_names("x" * 60_000), "longer than 1024 characters"),
    "a name that leads out": (lambda: with_names("a/../../b.png"), "must be relative"),
    "a drive": (lambda: with_names("C:/b.png"), "must be relative"),
    "an archive in an archive": (lambda: packed(files={"a.zip": packed()}), "'a.zip' is not a picture"),
    "an empty picture": (lambda: packed(files={"a.png": b""}), "'a.png' is not a picture"),
    "an end alone": (lambda: b"PK\x05\x06" + bytes(18), "has 0 files named metadata.jsonl"),
}


@pytest.mark.parametrize(("make", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_archive_names_the_entry_and_the_cure(
    make: Callable[[], bytes], said: str, tmp_path: Path
) -> None:
    found = refusal(tmp_path, make())
    assert re.search(said, found), found


def test_a_name_whose_bytes_are_no_unicode_is_refused_or_read(tmp_path: Path) -> None:
    content = changed(packed(), "a.png", 6, b"\0\x08").replace(b"a.png", b"\xff.png")
    assert refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"file_name": "a.png", "text": "\\ud800"}', "line 1 is not JSON"),
        (b'{"file_name": "a.png", "text": "\xff"}', "line 1 is not UTF-8 at byte"),
        (b'{"file_name": "a.png", "text": "a", "weight": NaN}', "line 1 is not JSON"),
        (b'{"file_name": "a.png", "text": "a", "weight": 1' + b"0" * 5000 + b"}", "line 1"),
        (b"[" * 100_000 + b"]" * 100_000, "line 1 is not JSON"),
        (b'{"file_name": "a.png", "label": "' + b"x" * 65 + b'"}', "label must be a string of 1 to 64"),
        (b'{"file_name": "' + b"x" * 2000 + b'", "text": "a"}', "the archive has no 'xxx"),
        (b'{"file_name": "a.png", "text": "a"}' + b" " * 2**20, "has a line of more than 1048576 bytes"),
    ],
)
def test_a_line_that_nobody_can_use_is_named(line: bytes, said: str, tmp_path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("metadata.jsonl", line)
        opened.writestr("a.png", picture())
    found = refusal(tmp_path, target.getvalue())
    assert said in found, found


def test_a_byte_order_mark_and_odd_line_separators_in_captions_are_no_faults(tmp_path: Path) -> None:
    target = tmp_path / "data.zip"
    caption = "one\u2028two\x85three"
    with zipfile.ZipFile(target, "w") as opened:
        line = json.dumps({"file_name": "a.png", "text": caption}, ensure_ascii=False)
        opened.writestr("metadata.jsonl", b"\xef\xbb\xbf" + line.encode() + b"\r\n")
        opened.writestr("a.png", picture())
    assert read_pictures(target, 16).captions == ((caption,),)


def test_a_picture_that_many_rows_name_is_decoded_once(tmp_path: Path) -> None:
    """20,000 rows that name one picture of 40 million pixels: 2.8 KB that kept a worker busy for hours."""
    file = io.BytesIO()
    PIL.Image.new("L", (6300, 6300)).save(file, "PNG")
    path = tmp_path / "data.zip"
    path.write_bytes(packed(files={"a.png": file.getvalue()}, rows=20_000))
    found = read_pictures(path, 64)
    assert len(found) == 20_000 and found.pixels.shape == (1, 3, 64, 64) and not found.places.any()


LIMITS: dict[str, tuple[str, int, bytes, str]] = {
    "pixels of all": ("MAX_TOTAL_PIXELS", 200, packed(files={str(n): picture() for n in range(5)}), "pixels"),
    "pixels of one": (
        "MAX_PIXELS",
        63,
        packed(files={"a": picture()}),
        "'a' is not a picture .*too many",
    ),
    "bytes of one": ("MAX_PICTURE_BYTES", 100, packed(files={"a": bytes(200_000)}), "'a' unpacks to more"),
    "bytes at the size": ("MAX_ARRAY_BYTES", 1000, packed(), "has 2 pictures; at 16 pixels 1 fit"),
    "rows": ("MAX_ROWS", 5, packed(rows=3), "more than the 5 lines"),
    "captions": ("MAX_CAPTIONS", 5, packed(rows=3), "more than the 5 captions"),
    "metadata": ("MAX_METADATA_BYTES", 300, packed(rows=4000), "'metadata.jsonl' unpacks to more"),
}


@pytest.mark.parametrize(("name", "most", "content", "said"), LIMITS.values(), ids=LIMITS)
def test_more_than_is_allowed_is_refused_while_it_comes(
    name: str, most: int, content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, name, most)
    found = refusal(tmp_path, content)
    assert re.search(said, found), found


def test_more_labels_than_a_model_can_have_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "MAX_LABELS", 2)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as opened:
        opened.writestr("a.png", picture())
        lines = [json.dumps({"file_name": "a.png", "label": label}) for label in "abc"]
        opened.writestr("metadata.jsonl", "\n".join(lines))
    assert "more than the 2 different labels" in refusal(tmp_path, target.getvalue())


@pytest.mark.parametrize(
    ("name", "most", "said"),
    [
        ("MAX_ENTRIES", 2, "has 3 entries; at most 2"),
        ("MAX_DIRECTORY", 100, "has a directory of more than"),
        ("MAX_UNPACKED", 300, "unpacks to more than"),
    ],
)
def test_an_archive_has_limits_of_its_own(
    name: str, most: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, name, most)
    assert said in refusal(tmp_path, packed())


def corpus_refusal(folder: Path, content: bytes) -> str:
    path = folder / "corpus.txt"
    path.write_bytes(content)
    wanted = TextTrainer().wants({"vocabulary": 300}, None)
    assert isinstance(wanted, TextWanted)
    try:
        read_dataset(wanted, path, Here(folder / "decoded"))
    except InvalidInput as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "most", "content", "said"),
    [
        ("MAX_BYTES", 50, b"one two\n\n" * 10, "has more than the 0 MiB that are allowed"),
        ("MAX_DOCUMENTS", 5, b"one two\n\n" * 10, "has more than the 5 documents"),
        ("MAX_DOCUMENT", 50, b"one\n\n" + b"x" * 60, "has a document of more than 0 MiB at byte 5"),
        ("MAX_DOCUMENT", 50, b"one\n\n" + b"two\n" * 20, "has a document of more than 0 MiB at byte 5"),
        ("MAX_BYTES", 2**20, b"fine\n\n" + b"\xff", r"is not UTF-8 text \(byte 6\)"),
        ("MAX_BYTES", 2**20, b"\xef\xbb\xbf \n\n", "is empty"),
        ("MAX_BYTES", 2**20, b"\xef\xbb\xbfUser: fine", ""),
    ],
)
def test_a_corpus_has_limits_and_says_where_it_is_broken(
    name: str, most: int, content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, name, most)
    found = corpus_refusal(tmp_path, content)
    assert re.search(said, found) and bool(said) == bool(found), found
