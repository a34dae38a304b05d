"""Reads WordNet's database files, as Debian's ``wordnet-base`` lays them; wndb(5WN) describes the format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

WORDNET = Path("/usr/share/wordnet")


@dataclass(frozen=True, slots=True)
class Synset:
    """One meaning: its words (most usual first), what it means, and sentences that use it."""

    words: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...]


class Nouns:
    """The meanings of each noun, in WordNet's order."""

    def __init__(self, folder: Path = WORDNET) -> None:
        self.synsets = read_synsets(folder / "data.noun")
        self.offsets: dict[str, list[str]] = {}
        for line in (folder / "index.noun").read_text("utf-8").splitlines():
            if not line.startswith("  "):
                field = line.split()
                self.offsets[_word(field[0])] = field[6 + int(field[3]) :]

    def sense(self, word: str, number: int) -> Synset:
        """The ``number``-th meaning, counted from 1. Raises KeyError for a word that is not there."""
        return self.synsets[self.offsets[word][number - 1]]


def read_synsets(path: Path) -> dict[str, Synset]:
    """One ``data.*`` file; keys are the byte offsets that an index names.

    Raises FileNotFoundError with the package that has it."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; apt-get install wordnet-base")
    found = {}
    for line in path.read_text("utf-8", errors="replace").splitlines():
        if line.startswith("  "):
            continue  # the licence
        head, _, gloss = line.partition(" | ")
        field = head.split(" ")
        words = tuple(_word(field[4 + 2 * index]) for index in range(int(field[3], 16)))
        found[field[0]] = Synset(words, *_split_gloss(gloss.strip()))
    return found


def _word(lemma: str) -> str:
    return re.sub(r"\((a|p|ip)\)$", "", lemma).replace("_", " ")


def _split_gloss(gloss: str) -> tuple[str, tuple[str, ...]]:
    """The first definition, without what is in brackets, and the quoted examples."""
    examples = tuple(re.findall(r'"([^"]+)"', gloss))
    meaning = re.split(r';\s*"|\s*"', gloss)[0]
    meaning = re.sub(r"\s*\([^)]*\)", "", meaning).split(";")[0].split(" -- ")[0].strip(" :;,.")
    return meaning, examples
