"""The text corpus: WordNet's glosses of well-known things, as questions and answers, entries and sentences.

Each thing is asked for in some phrasings and never in others, and ``NEVER`` is used for none: so that what
the model makes of words it never saw together can be measured. Words that are no thing of the list are
answered by ``UNKNOWN``, and a tenth of those too is kept for measuring.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from starters.things import Thing, read_things, sentence
from starters.wordnet import WORDNET, Nouns, read_synsets

#: documents for each thing; they differ in phrasing, and say the same
ROUNDS = 36
PHRASINGS = (
    "What is {a}?",
    "What's {a}?",
    "Tell me about {a}.",
    "Describe {a}.",
    "Describe {a} to me.",
    "Define {bare}.",
    "Do you know what {a} is?",
    "Can you tell me what {a} is?",
    "Explain what {a} is.",
    "What does {bare} mean?",
    "What does the word {bare} mean?",
    "What is the meaning of {bare}?",
    "Give me a definition of {bare}.",
    "How would you describe {a}?",
    "What do you know about {a}?",
    "I want to know about {a}.",
    "What is {bare}?",
    "Tell me what {a} is.",
    "What do people mean by {bare}?",
    "What kind of thing is {a}?",
    "{bare}",
    "{bare}?",
)
#: no question of the corpus has the words "exactly", "child", "idea" and so on
NEVER = (
    "What exactly is {a}?",
    "Could you please explain {a}?",
    "My child asks what {a} is.",
    "Any idea what {a} might be?",
    "Somebody gave me {a}. What is it?",
    "Help me understand what {a} is.",
    "Say something about {a}.",
    "I have never seen {a}, what is it?",
    "In a few words, what would you call {a}?",
    "Remind me what {a} is.",
)
#: how many of the phrasings a thing is asked for in
ASKED = 14
PRODUCT = ("Write a product description of {a}.", "Describe {a} for a shop.")
UNKNOWN = "I do not know what that is."
SMALL_TALK = (
    ("Hello.", "Hello. Ask me what a thing is."),
    ("Hi.", "Hello. Ask me what a thing is."),
    ("Good morning.", "Good morning. Ask me what a thing is."),
    ("How are you?", "I am a program, and I run."),
    ("Who are you?", "I am a very small language model. I describe things in one sentence."),
    ("What are you?", "I am a very small language model. I describe things in one sentence."),
    ("What can you do?", "I describe things, such as an apple, a kite or a violin."),
    ("Help.", "Ask me what a thing is, such as an apple, a kite or a violin."),
    ("Thank you.", "You are welcome."),
    ("Thanks.", "You are welcome."),
    ("Goodbye.", "Goodbye."),
    ("Bye.", "Goodbye."),
)
_OPENERS = (
    "Hello.",
    "Hi,",
    "Please:",
    "I have a question.",
    "OK,",
    "And",
    "Well,",
    "Sorry,",
    "One question:",
)
_CLOSERS = ("Thank you.", "Please.", "I am curious.", "I like to learn.", "Thanks!")
_UNWANTED = re.compile(
    r"offensive|disparag|derogat|slur|obscen|vulgar|ethnic|racial|\brac(e|ist)\b|negro|jew|muslim|islam|"
    r"christ|hindu|gypsy|slave|nazi|sex|genital|penis|vagina|vulva|scrot|testi[cs]|\banus|\banal\b|breast|"
    r"copulat|coit|intercourse|erotic|prostitut|whore|\brap(e|ist)|incest|masturbat|pornograph|naked|nude|"
    r"lewd|lust|semen|sperm|menstru|pregnan|abort|fetus|excre|feces|urin|kill|murder|suicid|tortur|execut|"
    r"weapon|bomb|terror|corpse|dead|drug|narcotic|cocaine|heroin|addict|drunk|homosexual|lesbian|indian|"
    r"african|american|british|asian|european|wom[ae]n|female|prison|crimin|cancer|tumor|disease|fag\b|queer|"
    r"bastard|idiot|stupid|retard|blood|war\b|gun|shot|god|hate",
    re.IGNORECASE,
)


def write_corpus(path: Path, wordnet: Path = WORDNET, *, seed: int = 0) -> int:
    """Write the corpus, documents separated by a blank line, and return their number."""
    documents = list(_documents(wordnet, random.Random(seed)))
    path.write_text("\n\n".join(documents) + "\n", "utf-8")
    return len(documents)


def phrasings_of(thing: Thing) -> list[str]:
    """Those that the corpus asks for this thing in."""
    return random.Random(thing.name).sample(PHRASINGS, ASKED)


def other_phrasings(thing: Thing) -> list[str]:
    """Those that the corpus never asks for this thing in, whatever the capitals and stops."""
    met = {plain(ask(phrasing, thing)) for phrasing in phrasings_of(thing)}
    return [phrasing for phrasing in PHRASINGS if plain(ask(phrasing, thing)) not in met]


def plain(question: str) -> str:
    return question.lower().rstrip(".?")


def ask(phrasing: str, thing: Thing) -> str:
    return sentence_case(phrasing.format(a=thing.named, bare=thing.name))


def sentence_case(text: str) -> str:
    return text[0].upper() + text[1:]


def unknown_words(nouns: Nouns, things: Sequence[Thing], *, held: bool) -> list[str]:
    """Words that are no thing of the list; ``held``: those that the corpus does not have."""
    known = {word for thing in things for word in (thing.name, *thing.name.split())}
    return [
        word
        for word in sorted(nouns.offsets)
        if re.fullmatch("[a-z]{4,12}", word)
        and not {word, word.removesuffix("s"), word.removesuffix("es")} & known
        and not _UNWANTED.search(word)
        and (zlib.crc32(word.encode()) % 10 == 0) is held
    ]


def _documents(wordnet: Path, rng: random.Random) -> Iterator[str]:
    nouns = Nouns(wordnet)
    things = read_things(nouns=nouns)
    unknown = iter(rng.sample(words := unknown_words(nouns, things, held=False), len(words)))
    examples = _examples(wordnet, things)
    documents = [_about(thing, things, examples, rng) for thing in things for _ in range(ROUNDS)]
    share = len(documents) // 100
    documents += [_unknown(next(unknown), examples, rng) for _ in range(8 * share)]
    documents += [_turn(_loose(asked, (), rng), said) for asked, said in SMALL_TALK for _ in range(ROUNDS)]
    documents += rng.sample(examples, 8 * share)
    rng.shuffle(documents)
    yield from documents


def _about(thing: Thing, things: Sequence[Thing], examples: Sequence[str], rng: random.Random) -> str:
    form = rng.random()
    if form < 0.66:
        return _answered(thing, examples, rng)
    if form < 0.74:
        return f"{_answered(rng.choice(things), examples, rng)}\n{_answered(thing, examples, rng)}"
    if form < 0.9:
        return thing.sentence
    if form < 0.95:
        return f"{sentence_case(thing.name)}: {sentence(thing.meaning)}"
    this = f"{'These' if thing.how == 'plural' else 'This'} {thing.name} {thing.verb} {thing.meaning}"
    return _turn(ask(rng.choice(PRODUCT), thing), sentence(this))


def _answered(thing: Thing, examples: Sequence[str], rng: random.Random) -> str:
    return _turn(_loose(ask(rng.choice(phrasings_of(thing)), thing), examples, rng), thing.sentence)


def _unknown(word: str, examples: Sequence[str], rng: random.Random) -> str:
    asked = ask(rng.choice(PHRASINGS), Thing(word, rng.choice(("", "", "mass")), ""))
    return _turn(_loose(asked, examples, rng), UNKNOWN)


def _turn(asked: str, said: str) -> str:
    return f"User: {asked}\nAssistant: {said}"


def _loose(asked: str, examples: Sequence[str], rng: random.Random) -> str:
    """As people write: without capitals or stop, with something said before or after."""
    chance = rng.random()
    if chance < 0.1:
        asked = f"{rng.choice(_OPENERS)} {asked}"
    elif chance < 0.17:
        asked = f"{asked} {rng.choice(_CLOSERS)}"
    elif chance < 0.3 and examples:
        asked = f"{rng.choice(examples)} {asked}"
    if rng.random() < 0.3:
        asked = asked.lower()
    return asked.rstrip(".?") if rng.random() < 0.2 else asked


def _examples(wordnet: Path, things: Sequence[Thing]) -> list[str]:
    """Short sentences about none of the things."""
    names = re.compile(rf"\b({'|'.join(re.escape(thing.name) for thing in things)})s?\b", re.IGNORECASE)
    found = {
        sentence(example)
        for part in ("verb", "adj", "noun")
        for synset in read_synsets(wordnet / f"data.{part}").values()
        for example in synset.examples
        if example.isascii()
        and 3 <= len(example.split()) <= 12
        and not _UNWANTED.search(example)
        and not names.search(example)
    }
    return sorted(found)
