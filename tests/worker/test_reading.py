"""A job's files in the sandbox: its stops and its time limit are kept, and its faults name the field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from shared.errors import InvalidInput, JobError
from tests.engines.test_train_diffusion import squares
from tests.engines.training import Here
from tests.servers import wait_until
from tests.worker.test_sandbox import gone
from worker.engines.contract.datasets import PicturesWanted
from worker.engines.contract.engine import Progress, Stopped, StopReason
from worker.engines.diffusion.training.networks import tokenizer_to_train
from worker.engines.text.trainer import TextTrainer
from worker.inputs.datasets import read_dataset
from worker.inputs.pictures import open_picture
from worker.inputs.reading import JobReader, Value
from worker.media.limits import PICTURE, Limits
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


class TakenOver(Here):
    """A decoder that does its task, and then changes what it wrote and answers."""

    def __init__(self, folder: Path, lie: Callable[[Path], bytes | None]) -> None:
        super().__init__(folder)
        self._lie = lie

    def read(
        self,
        task: str,
        sources: Sequence[Path],
        targets: Sequence[str],
        limits: Limits,
        arguments: Mapping[str, Any],
    ) -> tuple[bytes, list[Path]]:
        answer, files = super().read(task, sources, targets, limits, arguments)
        lie = self._lie(self.folder)
        return (answer if lie is None else lie), files


def rows(*lines: object) -> Callable[[Path], None]:
    def lie(folder: Path) -> None:
        (folder / "rows").write_text("\n".join(map(json.dumps, lines)))

    return lie


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def lie(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return lie


GOOD = [0, 1.0, None, ["a"]]
LIES: dict[str, Callable[[Path], bytes | None]] = {
    "no answer": lambda _: b"",
    "an answer too long": lambda _: b"x" * 4096,
    "more pictures than it wrote": lambda _: b"\0\0\0\4\0\0\0\3",
    "2^32 rows": lambda _: b"\0\0\0\3\xff\xff\xff\xff",
    "no rows": lambda _: b"\0\0\0\3\0\0\0\0",
    "fewer pixels": write("pixels", b"x"),
    "fewer rows": rows(GOOD, GOOD),
    "a picture that is not there": rows(GOOD, GOOD, [3, 1.0, None, ["a"]]),
    "a picture before the first": rows(GOOD, GOOD, [-1, 1.0, None, ["a"]]),
    "a weight below 0": rows(GOOD, GOOD, [0, -1.0, None, ["a"]]),
    "captions that are none": rows(GOOD, GOOD, [0, 1.0, None, [1]]),
    "no captions": rows(GOOD, GOOD, [0, 1.0, None, []]),
    "a caption without end": rows(GOOD, GOOD, [0, 1.0, None, ["a" * 2000]]),
    "a label that is none": rows(GOOD, GOOD, [0, 1.0, 7, ["a"]]),
    "rows of another kind": rows(GOOD, GOOD, {"a": 1}),
    "rows that are no JSON": write("rows", b"\xff\n\xff\n\xff\n"),
    "a tokenizer that is none": write("tokenizer.json", b"{}"),
    "a tokenizer that is no text": write("tokenizer.json", b"\xff\xfe"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_what_a_decoder_that_was_taken_over_writes_is_not_believed(
    tmp_path: Path, lie: Callable[[Path], bytes | None]
) -> None:
    wanted = PicturesWanted(size=16, tokenizer=tokenizer_to_train({"vocabulary": 600}))
    with pytest.raises(InvalidInput, match=r"^/input/dataset: confuses its decoder"):
        read_dataset(wanted, squares(tmp_path), TakenOver(tmp_path / "decoded", lie))


@pytest.mark.parametrize(
    "lie",
    [
        lambda _: b"",
        write("tokens", b"abc"),
        write("tokens", b"\xff\xff\xff\x7f" * 3),
        write("tokens", b"\xff" * 12),
        write("tokenizer.json", b"[]"),
    ],
)
def test_tokens_that_no_tokenizer_knows_are_not_believed(
    tmp_path: Path, lie: Callable[[Path], bytes | None]
) -> None:
    """On a GPU an index beyond the vocabulary would poison the device for every job."""
    path = file(tmp_path, b"a")
    with pytest.raises(InvalidInput, match=r"^/input/dataset: confuses its decoder"):
        read_dataset(
            TextTrainer().wants({"vocabulary": 300}, None), path, TakenOver(tmp_path / "decoded", lie)
        )
