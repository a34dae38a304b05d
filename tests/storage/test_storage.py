"""One suite over every storage."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from shared.errors import NotFound
from shared.storage import Storage, check_writable, objects


def read(storage: Storage, key: str) -> bytes:
    with storage.open(key) as file:
        return file.read()


@pytest.mark.parametrize("size", [0, 1, 300, 70_000, 8 << 20, (8 << 20) + 1, (17 << 20) + 5])
def test_what_is_written_is_read_again_with_its_size_and_digest(storage: Storage, size: int) -> None:
    content = os.urandom(size)
    stored = storage.write("outputs/job_1/1/0.png", io.BytesIO(content))
    assert (stored.key, stored.bytes) == ("outputs/job_1/1/0.png", size)
    assert stored.sha256 == hashlib.sha256(content).hexdigest()
    assert storage.size(stored.key) == size
    assert read(storage, stored.key) == content


def test_bytes_are_written_as_they_are(storage: Storage) -> None:
    assert storage.write("files/file_1", b"abc").sha256 == hashlib.sha256(b"abc").hexdigest()
    assert read(storage, "files/file_1") == b"abc"


def test_a_source_that_gives_its_bytes_in_dribs_is_stored_whole(storage: Storage) -> None:
    class Pipe(io.RawIOBase):
        left = 5000

        def read(self, size: int = -1) -> bytes:
            part = min(self.left, 700)
            self.left -= part
            return b"x" * part

    stored = storage.write("files/file_1", Pipe())  # type: ignore[arg-type]
    assert stored.bytes == 5000
    assert read(storage, "files/file_1") == b"x" * 5000


def test_content_is_reached_by_path_or_by_url(storage: Storage) -> None:
    storage.write("files/file_1", b"abc")
    path, url = storage.local_path("files/file_1"), storage.signed_url("files/file_1", 60)
    assert (path is None) != (url is None)
    if path is not None:
        assert path.read_bytes() == b"abc"


def test_a_second_write_replaces_the_first(storage: Storage) -> None:
    storage.write("files/file_1", b"the old content")
    storage.write("files/file_1", b"new")
    assert read(storage, "files/file_1") == b"new"
    assert storage.size("files/file_1") == 3


def test_a_write_that_breaks_off_leaves_what_was_there(storage: Storage) -> None:
    class Broken(io.RawIOBase):
        reads = 0

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            if self.reads == 3:
                raise RuntimeError("the client went away")
            return b"x" * 1000

    storage.write("files/file_1", b"whole")
    for key in ("files/file_1", "files/file_2"):
        with pytest.raises(RuntimeError, match="went away"):
            storage.write(key, Broken())  # type: ignore[arg-type]
    assert read(storage, "files/file_1") == b"whole"
    assert list(storage.list("files")) == ["files/file_1"]


def test_a_reader_seeks(storage: Storage) -> None:
    content = os.urandom(200_000)
    storage.write("files/file_1", content)
    with storage.open("files/file_1") as file:
        assert file.seekable()
        file.seek(150_000)
        assert file.read(10) == content[150_000:150_010]
        assert file.tell() == 150_010
        file.seek(-5, os.SEEK_END)
        assert file.read() == content[-5:]
        assert file.read() == b""
        file.seek(0)
        assert file.read() == content
        with pytest.raises((ValueError, OSError)):
            file.seek(-1)


def test_an_open_reader_never_mixes_two_versions(storage: Storage) -> None:
    storage.write("files/file_1", b"a" * 200_000)
    with storage.open("files/file_1") as file:
        start = file.read(10)
        storage.write("files/file_1", b"b" * 200_000)
        assert start + file.read() == b"a" * 200_000


def test_a_key_that_holds_nothing_is_not_found(storage: Storage) -> None:
    storage.write("models/job_1/unet/weights", b"w")
    for key in ("files/file_1", "models/job_1/unet"):
        with pytest.raises(NotFound):
            storage.open(key)
        with pytest.raises(NotFound):
            storage.size(key)


def test_deleting_is_fine_twice(storage: Storage) -> None:
    storage.write("files/file_1", b"1")
    storage.delete("files/file_1")
    storage.delete("files/file_1")
    storage.delete("files/file_1/below")
    with pytest.raises(NotFound):
        storage.size("files/file_1")
    assert list(storage.list("files")) == []


def test_a_folder_is_listed_and_deleted_without_its_neighbours(storage: Storage) -> None:
    for key in (
        "outputs/job_1/1/0.png",
        "outputs/job_1/2/0.png",
        "outputs/job_1-b",
        "outputs/job_10/1/0.png",
    ):
        storage.write(key, key.encode())
    assert list(storage.list("outputs/job_1")) == ["outputs/job_1/1/0.png", "outputs/job_1/2/0.png"]
    assert list(storage.list("outputs/job_1/")) == list(storage.list("outputs/job_1"))
    assert list(storage.list("outputs")) == sorted(storage.list("outputs"))
    storage.delete_prefix("outputs/job_1/")
    storage.delete_prefix("outputs/job_1")
    assert list(storage.list("outputs")) == ["outputs/job_1-b", "outputs/job_10/1/0.png"]


def test_a_folder_that_takes_several_requests_is_deleted_whole(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "DELETE_AT_ONCE", 4)
    for index in range(9):
        storage.write(f"checkpoints/job_1/{index}", b"")
    storage.delete_prefix("checkpoints/job_1")
    assert list(storage.list("checkpoints/job_1")) == []


def test_a_folder_is_fetched_whole(storage: Storage, tmp_path: Path) -> None:
    storage.write("models/job_1/model_index.json", b"{}")
    storage.write("models/job_1/unet/weights.safetensors", b"weights")
    storage.write("models/job_12/other", b"")
    folder = storage.fetch_folder("models/job_1", tmp_path / "cache" / "job_1")
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {"model_index.json": b"{}", "unet/weights.safetensors": b"weights"}
    assert storage.fetch_folder("models/job_1/", tmp_path / "cache" / "job_1") == folder
    with pytest.raises(NotFound):
        storage.fetch_folder("models/job_2", tmp_path / "cache" / "job_2")
    assert not (tmp_path / "cache" / "job_2").exists()


def test_a_copied_folder_is_the_callers_own(storage: Storage, tmp_path: Path) -> None:
    storage.write("checkpoints/job_1/1/a/state.json", b"{}")
    storage.write("checkpoints/job_1/1/a/unet/weights", b"weights")
    storage.copy_folder("checkpoints/job_1/1/a", tmp_path / "copy")
    found = {p.relative_to(tmp_path).as_posix() for p in (tmp_path / "copy").rglob("*") if p.is_file()}
    assert found == {"copy/state.json", "copy/unet/weights"}
    with pytest.raises(NotFound):
        storage.copy_folder("checkpoints/job_1/2", tmp_path / "none")


def test_a_storage_that_can_be_written_keeps_nothing_of_the_look(storage: Storage) -> None:
    check_writable(storage)
    assert list(storage.list("probe")) == []


OUTSIDE = ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a/./b", "a\\..\\b", "a\0b", "a\nb"]
TOO_LONG_OR_ODD = [".incoming/x", "a" * 201, "é" * 101, "a/" * 300 + "a", "\ud800"]


@pytest.mark.parametrize("key", [*OUTSIDE, *TOO_LONG_OR_ODD])
def test_a_key_that_could_leave_the_storage_is_refused(storage: Storage, key: str, tmp_path: Path) -> None:
    for act in (
        lambda: storage.write(key, b""),
        lambda: storage.open(key),
        lambda: storage.size(key),
        lambda: storage.delete(key),
        lambda: storage.delete_prefix(key + "/"),
        lambda: storage.list(key + "/"),
        lambda: storage.fetch_folder(key + "/", tmp_path / "into"),
    ):
        with pytest.raises(ValueError, match="storage key"):
            act()
