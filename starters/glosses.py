"""The text corpus: WordNet's glosses, so that a thing named is described.

Each synset of Debian's ``wordnet`` package becomes one document, "An apple is a fruit with red or yellow
or green skin …", often as a short conversation ("User: What is an apple?"). Proper names are left out,
and so is whatever would read badly when a small model mixes it up: slurs, sex, violence, peoples.
The format of the files is described in wndb(5WN).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

WORDNET = Path("/usr/share/wordnet")

#: Lexicographer files that are used, lexnames(5WN): things one can point at, and what they do.
NOUNS = {5, 6, 8, 13, 17, 18, 19, 20, 25, 27, 28}
#: animals and persons: one can count them
COUNTED = {5, 18}
#: how often a word must be met in texts to be described; those say little of animals, food, plants and tools
LEAST = {5: 1, 6: 1, 13: 1, 20: 1}
VERBS = {30, 34, 35, 36, 38, 39, 43}
ADJECTIVES = {0, 1}

_UNWANTED = re.compile(
    r"offensive|disparag|derogat|slur|obscen|vulgar|ethnic|racial|\brac(e|ist)\b|negro|jew|muslim|islam|"
    r"christ|hindu|gypsy|slave|nazi|sex|genital|penis|vagina|vulva|scrot|testi[cs]|\banus|\banal\b|breast|"
    r"copulat|coit|intercourse|erotic|prostitut|whore|rape|incest|masturbat|pornograph|naked|nude|lewd|"
    r"lust|semen|sperm|menstru|pregnan|abort|fetus|excre|feces|urin|kill|murder|suicid|tortur|execut|"
    r"weapon|bomb|terroris|corpse|dead body|drug|narcotic|cocaine|heroin|addict|drunk|homosexual|lesbian|"
    r"homophob|savage|primitive people|tribe|indian|african|american|british|asian|european|women|female "
    r"person|woman|prison|crimin|cancer|tumor|disease|syphil|fag\b|queer|bastard|idiot|stupid|retard",
    re.IGNORECASE,
)
_DETERMINERS = frozenset(
    {"a", "an", "the", "any", "one", "some", "someone", "something", "anything", "all", "each", "every"}
    | {"either", "this", "that", "these", "those", "used", "two", "three", "four", "several", "various"}
    | {"both", "many", "most", "people", "material", "usually", "commonly"}
)
_ONE = re.compile(r"^(uni|use|usu|eu|one\b|once|ur[aeio]|ut[ei]|uk)", re.IGNORECASE)
_SILENT = re.compile(r"^(hour|honest|honor|heir|herb\b|herbal)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Synset:
    """One meaning: its words (most usual first), what it is a kind of, what kinds and parts it has."""

    offset: str
    lexfile: int
    pos: str
    words: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...]
    kind_of: tuple[str, ...]
    kinds: tuple[str, ...]
    parts: tuple[str, ...]


def read_synsets(path: Path) -> dict[str, Synset]:
    """Parse one ``data.*`` file; keys are the byte offsets that pointers name."""
    found = {}
    for line in path.read_text("utf-8", errors="replace").splitlines():
        if line.startswith("  "):
            continue  # the licence
        head, _, gloss = line.partition(" | ")
        field = head.split(" ")
        count = int(field[3], 16)
        words = tuple(_word(field[4 + 2 * i]) for i in range(count))
        at = 5 + 2 * count
        pointers = [(field[at + 4 * i], field[at + 4 * i + 1]) for i in range(int(field[at - 1]))]
        meaning, examples = _split_gloss(gloss.strip())
        found[field[0]] = Synset(
            offset=field[0],
            lexfile=int(field[1]),
            pos=field[2],
            words=words,
            gloss=meaning,
            examples=examples,
            kind_of=tuple(o for s, o in pointers if s == "@"),
            kinds=tuple(o for s, o in pointers if s == "~"),
            parts=tuple(o for s, o in pointers if s == "%p"),
        )
    return found


def write_corpus(path: Path, wordnet: Path = WORDNET, *, seed: int = 0) -> int:
    """Write the corpus, documents separated by a blank line, and return their number."""
    documents = list(_documents(wordnet, random.Random(seed)))
    path.write_text("\n\n".join(documents) + "\n", "utf-8")
    return len(documents)


def _word(lemma: str) -> str:
    return re.sub(r"\((a|p|ip)\)$", "", lemma).replace("_", " ")


def _split_gloss(gloss: str) -> tuple[str, tuple[str, ...]]:
    examples = tuple(re.findall(r'"([^"]+)"', gloss))
    meaning = re.split(r';\s*"|\s*"', gloss)[0]
    meaning = re.sub(r"\s*\([^)]*\)", "", meaning).split(";")[0].split(" -- ")[0].strip(" :;,.")
    return meaning, examples


def article(word: str) -> str:
    """ "a" or "an", by sound as far as spelling tells."""
    if _SILENT.match(word):
        return "an"
    return "an" if word[0].lower() in "aeiou" and not _ONE.match(word) else "a"


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else noun + "s"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _sentence(text: str) -> str:
    text = text.strip()
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def _usable(synset: Synset) -> bool:
    word = synset.words[0]
    return (
        word.islower()
        and 2 < len(word) <= 24
        and word.replace(" ", "").replace("-", "").isalpha()
        and len(word.split()) <= 2
        and 8 < len(synset.gloss) <= 140
        and synset.gloss.isascii()
        and not _UNWANTED.search(" ".join((*synset.words, synset.gloss)))
    )


class _Grammar:
    """Whether a noun takes an article, learnt from how the glosses themselves use it."""

    def __init__(self, texts: list[str]) -> None:
        words = [re.findall(r"[a-z-]+", t.lower()) for t in texts]
        self.plain: Counter[str] = Counter(w for line in words for w in line)
        self.after: Counter[str] = Counter(b for line in words for a, b in pairwise(line) if a in ("a", "an"))

    def counted(self, noun: str) -> bool:
        head = noun.rsplit(maxsplit=1)[-1]
        if head.endswith(("ness", "ism", "ing", "ity", "ics")) or (head.endswith("s") and head[-2:] != "ss"):
            return False
        seen, plural = self.plain[head], self.plain[_plural(head)]
        return seen < 8 or self.after[head] >= 0.04 * seen or plural >= 0.15 * seen

    def the(self, noun: str) -> str:
        """The noun with the article it needs: "an apple", "water"."""
        return f"{article(noun)} {noun}" if self.counted(noun) else noun


def _documents(wordnet: Path, rng: random.Random) -> Iterator[str]:
    nouns, verbs = read_synsets(wordnet / "data.noun"), read_synsets(wordnet / "data.verb")
    adjectives = read_synsets(wordnet / "data.adj")
    grammar = _Grammar([s.gloss + " " + " ".join(s.examples) for s in (*nouns.values(), *verbs.values())])
    ranks = _first_senses(wordnet)
    documents: list[str] = []
    for synset in nouns.values():
        if (
            synset.lexfile in NOUNS
            and _known(synset, ranks) >= LEAST.get(synset.lexfile, 3)
            and _usable(synset)
        ):
            documents.extend(_noun(synset, nouns, ranks, grammar, rng))
    for synset in verbs.values():
        if synset.lexfile in VERBS and _known(synset, ranks) >= 8 and _usable(synset):
            documents.extend(_meaning(synset, "to ", rng))
    for synset in adjectives.values():
        if synset.examples and _known(synset, ranks) >= 8 and _usable(synset):
            documents.extend(_meaning(synset, "", rng))
    rng.shuffle(documents)
    yield from documents


def _frequencies(path: Path) -> Counter[tuple[str, int]]:
    """How often the meanings of a word in one lexicographer file were met in texts, cntlist(5WN)."""
    met: Counter[tuple[str, int]] = Counter()
    for line in path.read_text("utf-8").splitlines():
        key, _, count = line.split()
        lemma, _, sense = key.partition("%")
        met[_word(lemma), int(sense.split(":")[1])] += int(count)
    return met


def _first_senses(wordnet: Path) -> dict[tuple[str, str], int]:
    """How often words are met, for the first meaning of each: {(word, offset of its synset): times}."""
    met = _frequencies(wordnet / "cntlist.rev")
    known = {}
    for pos, lexfiles in (("noun", NOUNS), ("verb", VERBS), ("adj", ADJECTIVES)):
        for line in (wordnet / f"index.{pos}").read_text("utf-8").splitlines():
            if line.startswith("  "):
                continue
            field = line.split()
            word, first = _word(field[0]), field[6 + int(field[3])]
            known[word, first] = max((met[word, lexfile] for lexfile in lexfiles), default=0)
    return known


def _examples(synset: Synset, most: int) -> str:
    good = [e for e in synset.examples if e.isascii() and 12 < len(e) < 110 and not _UNWANTED.search(e)]
    return " For example: " + " ".join(_sentence(e) for e in good[:most]) if good else ""


def _known(synset: Synset, ranks: Mapping[tuple[str, str], int]) -> int:
    return ranks.get((synset.words[0], synset.offset), 0)


def _noun(
    synset: Synset,
    nouns: Mapping[str, Synset],
    ranks: Mapping[tuple[str, str], int],
    grammar: _Grammar,
    rng: random.Random,
) -> Iterator[str]:
    word, gloss = synset.words[0], synset.gloss
    thing = synset.lexfile in COUNTED and not word.endswith("s")
    named = f"{article(word)} {word}" if thing else grammar.the(word)
    many = word.endswith("s") and not grammar.counted(word) and not word.endswith(("ness", "ics", "ss"))
    verb = "are" if many else "is"
    first = gloss.split()[0]
    if (
        first not in _DETERMINERS
        and (thing or grammar.counted(word))
        and not first.endswith(("s", "ing", "ed", "ly"))
    ):
        gloss = f"{article(first)} {gloss}"
    facts = [_sentence(f"{named} {verb} {gloss}")]
    kind = next((nouns[o].words[0] for o in synset.kind_of if o in nouns), "")
    if kind.islower() and kind not in gloss and not many:
        facts.append(f"It is a kind of {kind}.")
    others = [w for w in synset.words[1:3] if w.islower() and w.replace(" ", "").isalpha()]
    if others and not many:
        facts.append(f"It is also called {' or '.join(grammar.the(w) for w in others)}.")
    parts = [
        grammar.the(nouns[o].words[0]) for o in synset.parts if _known(nouns[o], ranks) and _usable(nouns[o])
    ]
    parts = [p for p in parts if p != named][:4]
    if parts and not many:
        facts.append(f"It has {_listed(parts)}.")
    kinds = [nouns[o].words[0] for o in synset.kinds if _known(nouns[o], ranks) and _usable(nouns[o])]
    if len(kinds) >= 2:
        kinds = rng.sample(kinds, len(kinds))
        facts.append(f"Kinds of {word} are the {_listed(kinds[:3])}." if not many else "")
    text = " ".join(f for f in facts if f) + _examples(synset, 1)
    yield f"User: What {verb} {named}?\nAssistant: {text}"
    yield text
    if _known(synset, ranks) >= 10:
        asked = [f"Tell me about {named}.", f"Describe {named}.", f"Do you know what {named} {verb}?"]
        yield f"User: {rng.choice(asked)}\nAssistant: {text}"


def _meaning(synset: Synset, to: str, rng: random.Random) -> Iterator[str]:
    """Verbs, with ``to`` "to ", and adjectives, with none."""
    word = synset.words[0]
    text = _sentence(f"{to}{word} {'is to' if to else 'means'} {synset.gloss}") + _examples(synset, 2)
    yield text
    asked = f"What does it mean to {word}?" if to else f"What does {word} mean?"
    if rng.random() < 0.5:
        yield f"User: {asked}\nAssistant: {text}"
