"""What only a folder does."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from shared.errors import NotFound, Unavailable
from shared.storage.files import ABANDONED, FileStorage


def test_the_content_lies_on_this_machine(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    storage.write("files/file_1", b"abc")
    assert storage.local_path("files/file_1").read_bytes() == b"abc"
    with pytest.raises(NotFound):
        storage.local_path("files/file_2")


def test_a_folder_is_not_copied(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    storage.write("models/job_1/config.json", b"{}")
    assert storage.fetch_folder("models/job_1", tmp_path / "cache") == tmp_path / "models" / "job_1"
    assert not (tmp_path / "cache").exists()


def test_deletes_leave_no_empty_folders(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    storage.write("outputs/job_1/1/0.png", b"")
    storage.write("outputs/job_1/1/1.png", b"")
    storage.delete("outputs/job_1/1/0.png")
    assert (tmp_path / "outputs" / "job_1" / "1").is_dir()
    storage.delete("outputs/job_1/1/1.png")
    assert not (tmp_path / "outputs").exists()
    storage.write("outputs/job_1/1/0.png", b"")
    storage.delete_prefix("outputs/job_1")
    assert not (tmp_path / "outputs").exists()


def test_unfinished_files_are_removed_after_a_day_and_not_before(tmp_path: Path) -> None:
    FileStorage(tmp_path)
    old, young = tmp_path / ".incoming" / "old", tmp_path / ".incoming" / "young"
    for path in (old, young):
        path.write_bytes(b"part")
    os.utime(old, (time.time() - ABANDONED - 60,) * 2)
    FileStorage(tmp_path)
    assert (old.exists(), young.exists()) == (False, True)


class Slow:
    """A source that waits in the middle."""

    def __init__(self) -> None:
        self.waits, self.goes_on = threading.Event(), threading.Event()
        self._pieces = iter((b"first", b"second", b""))

    def read(self, size: int) -> bytes:
        piece = next(self._pieces)
        if piece == b"second":
            self.waits.set()
            assert self.goes_on.wait(60)
        return piece


def made_old(folder: Path) -> list[Path]:
    """The unfinished files, as they are after some minutes."""
    paths = list((folder / ".incoming").iterdir())
    for path in paths:
        os.utime(path, (time.time() - 300,) * 2)
    return paths


def test_what_a_dead_writer_left_is_swept_within_minutes_and_what_a_live_one_writes_is_not(
    tmp_path: Path,
) -> None:
    storage, source = FileStorage(tmp_path), Slow()
    dying = "import sys, os; sys.path.insert(0, '.'); from pathlib import Path\n"
    dying += "from shared.storage.files import FileStorage\n"
    dying += "class S:\n  def read(self, n): os.kill(os.getpid(), 9) if hasattr(self, 'x') else None; "
    dying += "self.x = 1; return b'part'\n"
    dying += f"FileStorage(Path({str(tmp_path)!r})).write('files/dead', S())"
    subprocess.run([sys.executable, "-c", dying], check=False, timeout=60)
    writing = threading.Thread(target=storage.write, args=("files/live", source))
    writing.start()
    assert source.waits.wait(60)
    assert len(made_old(tmp_path)) == 2
    storage.sweep()
    assert len(list((tmp_path / ".incoming").iterdir())) == 1
    source.goes_on.set()
    writing.join()
    assert storage.local_path("files/live").read_bytes() == b"firstsecond"
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_writes_survive_deletes_that_remove_their_folder(tmp_path: Path) -> None:
    storage, stop = FileStorage(tmp_path), threading.Event()

    def delete() -> None:
        while not stop.is_set():
            storage.delete("a/b/other")
            storage.delete_prefix("a/b/c")

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        for index in range(40):
            assert storage.write("a/b/c/d", b"%d" % index).bytes > 0
    finally:
        stop.set()
        thread.join()


def test_a_place_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="QANVAS_STORAGE_URL"):
        FileStorage(tmp_path / "file" / "below")
    storage = FileStorage(tmp_path / "storage")
    storage.write("a", b"")
    with pytest.raises(Unavailable, match="permissions") as unwritten:
        storage.write("a/b", b"")
    assert unwritten.value.public == "the storage cannot be written; the server's log says why"
    assert list((tmp_path / "storage" / ".incoming").iterdir()) == []


def test_a_storage_that_is_not_mounted_now_is_away_and_its_files_are_not_taken_for_deleted(
    tmp_path: Path,
) -> None:
    storage = FileStorage(tmp_path / "storage")
    storage.write("files/file_1", b"abc")
    storage.write("models/job_1/config.json", b"{}")
    away = storage.root.rename(tmp_path / "away")
    for act in (
        lambda: storage.open("files/file_1"),
        lambda: storage.size("files/file_1"),
        lambda: storage.local_path("files/file_1"),
        lambda: storage.fetch_folder("models/job_1", tmp_path / "into"),
        lambda: storage.copy_folder("models/job_1", tmp_path / "into"),
    ):
        with pytest.raises(Unavailable, match="the storage is away"):
            act()
    storage.root.mkdir()  # the empty folder that another file system is mounted upon
    with pytest.raises(Unavailable):
        storage.open("files/file_1")
    with pytest.raises(Unavailable):
        storage.write("files/file_2", b"x")
    assert list(storage.root.iterdir()) == []
    storage.root.rmdir()
    away.rename(storage.root)
    assert storage.local_path("files/file_1").read_bytes() == b"abc"


def test_a_storage_that_goes_away_in_the_middle_of_a_write_is_not_begun_anew_in_its_place(
    tmp_path: Path,
) -> None:
    storage = FileStorage(tmp_path / "storage")

    class Leaving(io.BytesIO):
        """The file system is unmounted while its bytes are read."""

        def read(self, size: int | None = -1) -> bytes:
            if storage.root.exists():
                storage.root.rename(tmp_path / "away")
            return super().read(size)

    with pytest.raises(Unavailable):
        storage.write("outputs/job_1/1/0.png", Leaving(b"picture"))
    assert not storage.root.exists()


def test_a_copied_folder_keeps_its_content_whatever_becomes_of_the_stored_one(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "storage")
    storage.write("checkpoints/job_1/1/a/state", b"1")
    storage.copy_folder("checkpoints/job_1/1/a", tmp_path / "copy")
    storage.write("checkpoints/job_1/1/a/state", b"another")
    storage.delete_prefix("checkpoints/job_1")
    assert (tmp_path / "copy" / "state").read_bytes() == b"1"


def test_a_folder_on_another_file_system_is_copied(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")  # another file system, where there is one
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second file system")
    storage = FileStorage(tmp_path / "storage")
    storage.write("checkpoints/job_1/1/a/state", b"1")
    with tempfile.TemporaryDirectory(dir=elsewhere) as folder:
        storage.copy_folder("checkpoints/job_1/1/a", Path(folder) / "copy")
        assert (Path(folder) / "copy" / "state").read_bytes() == b"1"
