"""Training a text model: it learns, stops, goes on exactly, and says what is wrong with its data."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shared.catalog.entries.model import Builtin, Model
from shared.errors import InvalidInput
from tests.engines.contexts import Recorder
from tests.engines.training import train
from worker.engines.contract.engine import Device, File, Result, Stopped, StopReason, Work
from worker.engines.text.engine import TextEngine
from worker.engines.text.trainer import TextTrainer
from worker.media.corpora import documents

DOCUMENTS = [
    f"User: What is a {thing}?\nAssistant: A {thing} is a {kind} of {colour} colour."
    for thing, kind, colour in [
        ("plum", "fruit", "blue"),
        ("lemon", "fruit", "yellow"),
        ("frog", "animal", "green"),
        ("fox", "animal", "red"),
    ]
]
TINY = {"batch": 4, "context": 32, "vocabulary": 300, "width": 64, "layers": 1, "learning_rate": 0.01}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks are slower on several threads, many times so beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def corpus(folder: Path) -> Path:
    path = folder / "corpus.txt"
    path.write_text("\n\n".join(DOCUMENTS * 4), "utf-8")
    return path


def work(dataset: Path, steps: int, **more: Any) -> Work:
    given = {**TINY, "dataset": str(dataset), "name": "tiny", "minutes": 1, "steps": steps, "seed": 3, **more}
    return Work(job_id="job_1", task="train-text", input=given)


def weights(result: Result) -> dict[str, Any]:
    assert result.model is not None
    return load_file(result.model.folder / "model.safetensors")


@pytest.mark.slow
def test_a_tiny_model_learns_its_corpus_and_answers(tmp_path: Path) -> None:
    context = Recorder(tmp_path)
    result = train(TextTrainer(), work(corpus(tmp_path), 120), context)
    assert result.value is not None
    assert result.value["steps"] == 120
    assert result.value["loss"] < 2
    assert context.progress[-1].step == context.progress[-1].total == 120
    assert result.model is not None
    assert result.model.task == "text-generation"

    engine = TextEngine()
    entry = Model(
        id="tiny",
        task="text-generation",
        engine="text",
        source=Builtin(),
        input_schema=result.model.input_schema,
        output="application/json",
    )
    loaded = engine.load(entry, result.model.folder, Device())
    asked = {"messages": [{"role": "user", "content": "What is a fox?"}], "max_tokens": 20}
    said = engine.run(
        loaded,
        Work(job_id="job_2", task="text-generation", input=asked | {"temperature": 0, "top_p": 1, "seed": 0}),
        Recorder(tmp_path),
    )
    assert said.value is not None
    assert said.value["text"].startswith("A ")


def test_the_model_also_comes_as_one_zip(tmp_path: Path) -> None:
    result = train(TextTrainer(), work(corpus(tmp_path), 1), Recorder(tmp_path))
    (archive,) = result.outputs
    assert isinstance(archive, File)
    assert archive.media_type == "application/zip"
    with zipfile.ZipFile(archive.path) as opened:
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(opened.namelist())


def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path: Path) -> None:
    dataset = corpus(tmp_path)
    whole = train(TextTrainer(), work(dataset, 12), Recorder(tmp_path / "whole"))

    first = Recorder(tmp_path / "first", stop_at=6, reason=StopReason.DRAINING)
    with pytest.raises(Stopped):
        train(TextTrainer(), work(dataset, 12), first)
    assert first.latest is not None
    second = Recorder(tmp_path / "second", resume=first.latest)
    resumed = train(TextTrainer(), work(dataset, 12), second)

    assert len([p for p in second.progress if p.stage == "train"]) == 12 - first.progress[-1].step
    expected, got = weights(whole), weights(resumed)
    assert all(expected[name].equal(got[name]) for name in expected)


def test_a_canceled_run_stops_at_once_and_keeps_nothing(tmp_path: Path) -> None:
    context = Recorder(tmp_path, stop_at=4, reason=StopReason.CANCELED)
    with pytest.raises(Stopped):
        train(TextTrainer(), work(corpus(tmp_path), 500), context)
    assert context.progress[-1].step == 3
    assert context.latest is None


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    dataset = corpus(tmp_path)
    one = weights(train(TextTrainer(), work(dataset, 1), Recorder(tmp_path / "1")))
    other = weights(train(TextTrainer(), work(dataset, 1, seed=4), Recorder(tmp_path / "2")))
    assert any(not one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize(
    ("content", "says"), [(b"\xff\xfe broken", "UTF-8"), (b" \n\n ", "empty"), (b"Too short.", "tokens")]
)
def test_a_corpus_that_cannot_be_used_says_why(tmp_path: Path, content: bytes, says: str) -> None:
    dataset = tmp_path / "corpus.txt"
    dataset.write_bytes(content)
    with pytest.raises(InvalidInput, match=says) as caught:
        train(TextTrainer(), work(dataset, 1), Recorder(tmp_path))
    assert caught.value.errors[0].pointer == "/input/dataset"


def test_documents_are_parted_by_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes("one\r\nline\r\n\r\n\n\ntwo — zwei\n".encode())
    with path.open("rb") as file:
        assert list(documents(file)) == ["one\nline", "two — zwei"]
