"""A job's files in the sandbox: its stops and its time limit are kept, and its faults name the field."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import PIL.Image
import pytest

from shared.errors import JobError
from tests.servers import wait_until
from tests.worker.test_sandbox import gone
from worker.engines.base import Progress, Stopped, StopReason
from worker.inputs.pictures import open_picture
from worker.inputs.reading import JobReader, Value
from worker.media.limits import PICTURE
from worker.media.sandbox import Sandbox

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One whose decoders do what a file says."""
    made = Sandbox(tasks="tests.worker.misbehaving")
    yield made
    made.close()


def file(folder: Path, content: bytes) -> Path:
    path = folder / "sent"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"segfault", "makes its decoder crash; save it anew"),
        (b"allocate", "needs more than the 2048 MiB of memory"),
        (b"fine", "confuses its decoder"),  # it answers, but not with the size of a picture
        (b"answer without end"[:16], "is no picture; send one of"),
    ],
)
def test_a_picture_that_harms_its_decoder_is_refused_by_the_name_of_its_field(
    sandbox: Sandbox, tmp_path: Path, content: bytes, said: str
) -> None:
    reader = JobReader(sandbox, tmp_path / "decoded")
    with pytest.raises(JobError, match=f"^image: {said}") as caught:
        open_picture(reader, file(tmp_path, content), "image")
    assert caught.value.type == "invalid-input" and not caught.value.retryable
    PIL.Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "good.png")
    good = open_picture(reader, tmp_path / "good.png", "image")
    assert (good.size, good.getpixel((2, 1))) == ((3, 2), (1, 2, 3))


def test_a_job_that_is_stopped_while_its_picture_is_decoded_ends_the_decoder(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    def give_up(_: Future[Value], /) -> Value:
        wait_until(lambda: said.exists() and said.read_text(), what="the decoder to begin")
        raise Stopped(StopReason.CANCELED)

    said = tmp_path / "decoded" / "pixels"
    with pytest.raises(Stopped) as caught:
        open_picture(
            JobReader(sandbox, tmp_path / "decoded", wait=give_up), file(tmp_path, b"sleep"), "image"
        )
    assert caught.value.reason is StopReason.CANCELED
    wait_until(lambda: gone(int(said.read_text())), what="the decoder to end")


def test_the_time_limit_of_a_job_holds_while_its_picture_is_decoded(sandbox: Sandbox, tmp_path: Path) -> None:
    reader = JobReader(sandbox, tmp_path / "decoded", timeout=1.0)
    with pytest.raises(Stopped) as caught:
        open_picture(reader, file(tmp_path, b"compute"), "image")
    assert caught.value.reason is StopReason.DEADLINE


def test_the_time_that_decoding_took_is_not_there_for_computing(sandbox: Sandbox, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    reader = JobReader(sandbox, tmp_path / "decoded", timeout=60.0)
    open_picture(reader, tmp_path / "good.png", "image")
    assert reader.left is not None and 0 < reader.left < 60.0
    assert JobReader(sandbox, tmp_path).left is None


def test_what_a_decoder_tells_of_its_progress_becomes_the_jobs(sandbox: Sandbox, tmp_path: Path) -> None:
    told: list[Progress] = []
    reader = JobReader(sandbox, tmp_path / "decoded", report=told.append)
    reader.read("report", [], [], PICTURE, {})
    assert told and all((one.stage, one.total) == ("read", 10) for one in told)
    assert len(told) < 10, "a decoder may tell as often as it likes"
