"""What starter-text describes: well-known things, each with one of WordNet's glosses as a sentence.

``things.txt`` has a thing on each line: its name, the number of the meaning where that is not the first, and
how it is spoken of where that is not "a kite is a plaything": ``mass`` (honey is …), ``plural`` (scissors
are …), or ``many``, where the gloss speaks of all of them (a bear is one of the …).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from starters.wordnet import Nouns

CHOSEN = Path(__file__).with_name("things.txt")

_DETERMINERS = frozenset(
    ["a", "an", "the", "any", "one", "some", "either", "each", "two", "both", "that", "something"]
)
#: nouns of glosses that take no article; they come among the first words
_UNCOUNTED = frozenset(
    {"equipment", "footwear", "bedding", "makeup", "jewelry", "cutlery", "transport", "hosiery", "handwear"}
    | {"neckwear", "goods", "clothing", "headdress", "ice", "water", "food", "meat", "art", "machinery"}
    | {"tissue"}
)
#: nouns of glosses that take one though the thing does not: honey is a liquid
_COUNTED = frozenset(
    [
        "beverage",
        "bulb",
        "candy",
        "compound",
        "dessert",
        "form",
        "fuel",
        "mixture",
        "powder",
        "preserve",
        "sauce",
        "spice",
        "vine",
    ]
)
_ONE = re.compile(r"^(uni|use|usu|eu|one\b|once|ur[aeio]|ut[ei]|uk)", re.IGNORECASE)
_SILENT = re.compile(r"^(hour|honest|honor|heir|herb\b|herbal)", re.IGNORECASE)
_ANY_OF = re.compile(r"^any of (?:(?:various|several|numerous|many|the) )*(?:kinds of )?")


@dataclass(frozen=True)
class Thing:
    """``how``: "", "mass", "plural" or "many", as above; ``gloss`` is WordNet's."""

    name: str
    how: str
    gloss: str

    @property
    def named(self) -> str:
        """With the article it needs: "an apple", "honey"."""
        return self.name if self.how in ("mass", "plural") else f"{article(self.name)} {self.name}"

    @property
    def verb(self) -> str:
        return "are" if self.how == "plural" else "is"

    @cached_property
    def meaning(self) -> str:
        """The gloss with an article where it needs one."""
        gloss = _ANY_OF.sub("one of the ", self.gloss)
        first, *_ = words = gloss.split()
        if self.how == "many":
            return f"one of the {gloss}"
        plain = not _COUNTED & set(words[:4]) if self.how else bool(_UNCOUNTED & set(words[:3]))
        if plain or first in _DETERMINERS:
            return gloss
        return f"the {gloss}" if first.endswith("est") else f"{article(first)} {gloss}"

    @property
    def sentence(self) -> str:
        return sentence(f"{self.named} {self.verb} {self.meaning}")


def read_things(chosen: Path = CHOSEN, nouns: Nouns | None = None) -> list[Thing]:
    """In the order of the list. Raises KeyError for a name that WordNet does not have."""
    nouns = nouns or Nouns()
    things = []
    for line in chosen.read_text("utf-8").splitlines():
        found = re.fullmatch(r"(?P<name>.+?)(?: (?P<sense>\d+))?(?: (?P<how>mass|plural|many))?", line)
        if found is None:
            raise ValueError(
                f"{chosen}: {line!r} is not a name, perhaps with a number and mass, plural or many"
            )
        gloss = nouns.sense(found["name"], int(found["sense"] or 1)).gloss.partition(":")[0]
        things.append(Thing(found["name"], found["how"] or "", gloss))
    return things


def article(word: str) -> str:
    """ "a" or "an", by sound as far as spelling tells."""
    if _SILENT.match(word):
        return "an"
    return "an" if word[0].lower() in "aeiou" and not _ONE.match(word) else "a"


def sentence(text: str) -> str:
    """Begun with a capital and ended with a stop."""
    text = text.strip()
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
