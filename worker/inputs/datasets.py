"""The dataset of a training: read in the sandbox once, and given to its trainer as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shared.errors import InvalidInput
from worker.engines.contract.datasets import Bpe, PicturesWanted, TextWanted, Wanted
from worker.inputs.reading import Reader
from worker.media import corpora, datasets
from worker.media.limits import DATASET
from worker.media.wire import Undecodable

POINTER = "/input/dataset"
#: bytes of a tokenizer at most; one of 50,000 tokens has some four million
_MOST_TOKENIZER = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Rows of a dataset, each of which names a picture and has captions; several may name the same one."""

    #: uint8 (pictures, 3, size, size), mapped from a file of the attempt
    pixels: NDArray[np.uint8]
    #: int64 (rows,): which picture
    places: NDArray[np.int64]
    captions: tuple[tuple[str, ...], ...]
    #: float64 (rows,), positive: how often each row is drawn
    weights: NDArray[np.float64]
    #: the class of each row, or None
    labels: tuple[str | None, ...]
    #: the tokenizer that was trained on the captions, in the JSON of the library
    tokenizer: str | None = None

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A corpus."""

    #: int32 (tokens,), mapped from a file of the attempt
    tokens: NDArray[np.int32]
    #: in the JSON of the library
    tokenizer: str
    #: whether some document is a conversation
    chat: bool


def read_dataset(wanted: Wanted, path: Path, reader: Reader) -> Pictures | Text:
    """Raises InvalidInput at ``/input/dataset``, and what ``Reader.read`` raises."""
    try:
        if isinstance(wanted, PicturesWanted):
            return _pictures(wanted, path, reader)
        return _text(wanted, path, reader)
    except Undecodable as error:
        raise InvalidInput.at(POINTER, str(error)) from error


def _pictures(wanted: PicturesWanted, path: Path, reader: Reader) -> Pictures:
    plan = None if wanted.tokenizer is None else asdict(wanted.tokenizer)
    targets = ("pixels", "rows", "tokenizer.json")[: 2 if plan is None else 3]
    arguments = {"size": wanted.size, "tokenizer": plan}
    answer, (pixels, rows, *tokenizer) = reader.read("pictures", [path], targets, DATASET, arguments)
    _expect(len(answer) == datasets.COUNTS.size)
    pictures, count = datasets.COUNTS.unpack(answer)
    shape = (pictures, 3, wanted.size, wanted.size)
    places, weights, labels, captions = _rows(rows, count, pictures)
    return Pictures(
        pixels=_mapped(pixels, np.dtype(np.uint8), shape),
        places=places,
        captions=captions,
        weights=weights,
        labels=labels,
        tokenizer=_tokenizer(tokenizer[0])[0] if tokenizer else None,
    )


def _rows(
    path: Path, count: int, pictures: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], tuple[str | None, ...], tuple[tuple[str, ...], ...]]:
    """The lines that the decoder wrote, none of which is believed."""
    _expect(0 < count <= datasets.MAX_ROWS and path.stat().st_size <= 2 * datasets.MAX_METADATA_BYTES)
    places, weights = np.empty(count, np.int64), np.empty(count, np.float64)
    labels: list[str | None] = []
    captions: list[tuple[str, ...]] = []
    with path.open("rb") as lines:
        for index, line in enumerate(islice(lines, count)):
            try:
                place, weight, label, texts = orjson.loads(line)
            except (orjson.JSONDecodeError, TypeError, ValueError):
                raise _confused() from None
            _expect(type(place) is int and 0 <= place < pictures and type(weight) is float and weight > 0)
            _expect(label is None or _is_text(label, datasets.MAX_LABEL))
            _expect(type(texts) is list and len(texts) > 0)
            _expect(all(_is_text(text, datasets.MAX_CAPTION) for text in texts))
            places[index], weights[index] = place, weight
            labels.append(label)
            captions.append(tuple(texts))
    _expect(len(labels) == count)
    return places, weights, tuple(labels), tuple(captions)


def _text(wanted: TextWanted, path: Path, reader: Reader) -> Text:
    sources = [path, wanted.tokenizer] if isinstance(wanted.tokenizer, Path) else [path]
    plan = asdict(wanted.tokenizer) if isinstance(wanted.tokenizer, Bpe) else None
    arguments = {"tokenizer": plan, "end": wanted.end}
    answer, (tokens, tokenizer) = reader.read(
        "corpus", sources, ("tokens", "tokenizer.json"), DATASET, arguments
    )
    _expect(len(answer) == corpora.COUNTS.size)
    count, _, chat = corpora.COUNTS.unpack(answer)
    text, vocabulary = _tokenizer(tokenizer)
    found = _mapped(tokens, np.dtype(np.int32), (count,))
    _expect(found.min() >= 0 and found.max() < vocabulary)
    return Text(tokens=found, tokenizer=text, chat=chat)


def _tokenizer(path: Path) -> tuple[str, int]:
    """A tokenizer in the JSON of the library, and how many tokens it knows."""
    _expect(path.stat().st_size <= _MOST_TOKENIZER)
    try:
        text = path.read_text("utf-8")
        return text, Tokenizer.from_str(text).get_vocab_size()
    except Exception:  # noqa: BLE001 - the library raises nothing more special
        raise _confused() from None


def _is_text(value: object, most: int) -> bool:
    return type(value) is str and 0 < len(value) <= most


def _mapped(path: Path, kind: np.dtype[Any], shape: Sequence[int]) -> NDArray[Any]:
    """The file as an array, which may be written to without changing the file."""
    _expect(0 < path.stat().st_size == kind.itemsize * int(np.prod(shape, dtype=object)))
    return np.memmap(path, kind, mode="c", shape=tuple(shape))


def _expect(holds: bool) -> None:
    if not holds:
        raise _confused()


def _confused() -> Undecodable:
    """The decoder wrote what the task never writes: something took it over."""
    return Undecodable("confuses its decoder; make it anew with another program and send that")
