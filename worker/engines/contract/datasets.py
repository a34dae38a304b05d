"""What a trainer says of how it wants its dataset read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Bpe:
    """A tokenizer that is to be trained on a dataset's texts."""

    #: the untrained one, in the JSON of the library
    template: str
    #: arguments of the library's ``BpeTrainer``
    trainer: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturesWanted:
    """An archive of captioned pictures, each cut to a square of ``size`` pixels."""

    size: int
    tokenizer: Bpe | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextWanted:
    """A text file as one row of tokens, by a tokenizer that is trained on it or lies in a file."""

    tokenizer: Bpe | Path
    #: the token before, between and behind documents
    end: str


#: how a trainer wants its dataset
Wanted = PicturesWanted | TextWanted
