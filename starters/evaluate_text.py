"""Measures starter-text: ``python -m starters.evaluate_text [FOLDER] [--things N] [--json FILE]``.

Answers are made greedily (temperature 0). An answer is **right** when, of all descriptions, the one nearest
to it (by the share of words in common, Jaccard) is the thing's own, nearer than any other, with at least half
of the words in common. ``exact`` counts those that are the description word for word.

* ``learned``: asked in a phrasing that the corpus has for this thing.
* ``other_phrasing``: in one that it has for other things only.
* ``new_words``: in one that it has for none, with words that it has in no question.
* ``continued``: the beginning of a sentence, "A kite is", is to be gone on with.
* ``unknown``: words that are no thing of the list, and that the corpus does not have: the share that is
  answered by "I do not know what that is.", and the share of known things that wrongly is.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from shared.chunks import in_chunks
from starters.glosses import (
    NEVER,
    PHRASINGS,
    UNKNOWN,
    ask,
    other_phrasings,
    phrasings_of,
    sentence_case,
    unknown_words,
)
from starters.things import Thing, read_things
from starters.wordnet import Nouns

FOLDER = Path(__file__).with_name("text")
THINGS = 200
BATCH = 50
MOST_TOKENS = 48

_transformers: Any = transformers  # loads its classes lazily and leaves them without types


class Writer:
    """The model in float32, without an engine."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model = _transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answers(self, asked: Sequence[str]) -> list[str]:
        """What it says to each question."""
        return self.go_on([f"User: {question}\nAssistant:" for question in asked])

    @torch.no_grad()
    def go_on(self, prompts: Sequence[str]) -> list[str]:
        """What it writes behind each prompt, to its end token or the end of the line."""
        written: list[str] = []
        for some in in_chunks(prompts, BATCH):
            given = self._tokenizer(some, return_tensors="pt", padding=True)
            made = self._model.generate(**given, max_new_tokens=MOST_TOKENS, do_sample=False)
            texts = self._tokenizer.batch_decode(
                made[:, given["input_ids"].shape[1] :], skip_special_tokens=True
            )
            written += [text.strip().split("\n")[0] for text in texts]
        return written


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9']+", text.lower()))


def nearest(text: str, meanings: Collection[str]) -> tuple[str | None, float]:
    """The meaning nearest to the text, None where two are; and the share of words in common."""
    given = words(text)
    common = {meaning: len(given & words(meaning)) / len(given | words(meaning)) for meaning in meanings}
    first, second = sorted(meanings, key=common.__getitem__, reverse=True)[:2]
    return (first if common[first] > common[second] else None), common[first]


def is_right(answer: str, thing: Thing, meanings: Collection[str]) -> bool:
    """See above. The subject counts for nothing: of "A kite is a plaything", "a plaything" is compared."""
    said = re.split(r"\b(?:is|are)\b", answer, maxsplit=1)[-1]
    found, common = nearest(said, meanings)
    return found == thing.meaning and common >= 0.5


class Evaluation:
    """Some things, asked for in all ways; ``shown`` has every question with its answer."""

    def __init__(self, folder: Path, count: int, seed: int = 0) -> None:
        nouns, self._pick = Nouns(), random.Random(seed)
        things = read_things(nouns=nouns)
        self._writer = Writer(folder)
        self._meanings = {thing.meaning for thing in things}  # a purse and a handbag share theirs
        self._things = self._pick.sample(things, min(count, len(things)))
        self._strange = self._pick.sample(unknown_words(nouns, things, held=True), len(self._things))
        self.shown: list[dict[str, str]] = []

    def numbers(self) -> dict[str, Any]:
        pick, things = self._pick.choice, self._things
        asked = {
            "learned": [ask(pick(phrasings_of(thing)), thing) for thing in things],
            "other_phrasing": [ask(pick(other_phrasings(thing)), thing) for thing in things],
            "new_words": [ask(pick(NEVER), thing) for thing in things],
        }
        answers = {kind: self._shown(kind, asked[kind], self._writer.answers(asked[kind])) for kind in asked}
        begun = [sentence_case(f"{thing.named} {thing.verb}") for thing in things]
        rest = self._shown("continued", begun, self._writer.go_on(begun))
        answers["continued"] = [f"{start} {end}" for start, end in zip(begun, rest, strict=True)]
        unknown = [ask(PHRASINGS[0], Thing(word, "", "")) for word in self._strange]
        said = self._shown("unknown", unknown, self._writer.answers(unknown))
        known = [answer for kind in asked for answer in answers[kind]]
        return {
            "things": len(things),
            **{kind: self._score(answers[kind]) for kind in answers},
            "unknown": {
                "declined": said.count(UNKNOWN) / len(said),
                "known_declined": known.count(UNKNOWN) / len(known),
            },
        }

    def _score(self, answers: Sequence[str]) -> dict[str, float]:
        pairs = list(zip(answers, self._things, strict=True))
        right = sum(is_right(answer, thing, self._meanings) for answer, thing in pairs)
        exact = sum(answer == thing.sentence for answer, thing in pairs)
        return {"right": right / len(pairs), "exact": exact / len(pairs)}

    def _shown(self, kind: str, asked: Sequence[str], answers: list[str]) -> list[str]:
        self.shown += [{"kind": kind, "asked": a, "answer": b} for a, b in zip(asked, answers, strict=True)]
        return answers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m starters.evaluate_text")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--things", type=int, default=THINGS, help="how many are asked for")
    parser.add_argument("--json", type=Path, help="write the numbers there, with every question and answer")
    given = parser.parse_args()
    evaluation = Evaluation(given.folder, given.things)
    numbers = evaluation.numbers()
    print(json.dumps(numbers, indent=1))
    if given.json:
        given.json.write_text(json.dumps({"numbers": numbers, "answers": evaluation.shown}, indent=1))


if __name__ == "__main__":
    main()
