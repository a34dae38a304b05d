"""Tokenizers that are trained on what somebody sent. In a decoder only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def train(plan: Mapping[str, Any], texts: Iterable[str]) -> Tokenizer:
    """A byte pair encoding of the texts. ``plan`` has an untrained ``template``, in the JSON of the library,
    and the arguments of its ``trainer``."""
    from tokenizers import Tokenizer, trainers  # pictures do not need it

    tokenizer = Tokenizer.from_str(plan["template"])
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(show_progress=False, **plan["trainer"]))
    return tokenizer
