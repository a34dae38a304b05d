"""What starter-text is taught: sentences that read well, and questions that are kept out of the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from starters.evaluate_text import is_right, nearest
from starters.glosses import (
    ASKED,
    NEVER,
    PHRASINGS,
    SMALL_TALK,
    UNKNOWN,
    ask,
    other_phrasings,
    phrasings_of,
    plain,
    unknown_words,
    write_corpus,
)
from starters.things import Thing, read_things
from starters.wordnet import WORDNET, Nouns, read_synsets

needs_wordnet = pytest.mark.skipif(not WORDNET.exists(), reason="apt-get install wordnet-base")

KITE = Thing("kite", "", "plaything consisting of a light frame covered with tissue paper")
HONEY = Thing("honey", "mass", "a sweet yellow liquid produced by bees")
DATA = """\
  1 This is the licence
00000010 05 n 02 wild_kite 0 kite 1 001 @ 00000020 n 0000 | a bird of prey (Milvus); red; "kites circled"
00000020 06 n 01 kite 0 000 | plaything consisting of a light frame; "fly a kite"; "let it go"
"""
INDEX = """\
  1 This is the licence
kite n 2 1 @ 2 1 00000020 00000010
wild_kite n 1 0 1 0 00000010
"""


@pytest.mark.parametrize(
    ("thing", "sentence"),
    [
        (KITE, "A kite is a plaything consisting of a light frame covered with tissue paper."),
        (HONEY, "Honey is a sweet yellow liquid produced by bees."),
        (Thing("ice", "mass", "water frozen in the solid state"), "Ice is water frozen in the solid state."),
        (
            Thing("custard", "mass", "sweetened mixture of milk and eggs"),
            "Custard is a sweetened mixture of milk and eggs.",
        ),
        (
            Thing("scissors", "plural", "an edge tool having two blades"),
            "Scissors are an edge tool having two blades.",
        ),
        (
            Thing("rat", "", "any of various long-tailed rodents"),
            "A rat is one of the long-tailed rodents.",
        ),
        (Thing("crow", "many", "black birds"), "A crow is one of the black birds."),
        (Thing("giraffe", "", "tallest living quadruped"), "A giraffe is the tallest living quadruped."),
        (
            Thing("camera", "", "equipment for taking photographs"),
            "A camera is equipment for taking photographs.",
        ),
        (Thing("hourglass", "", "old clock"), "An hourglass is an old clock."),
        (Thing("unicycle", "", "a vehicle"), "A unicycle is a vehicle."),
    ],
    ids=lambda value: value.name if isinstance(value, Thing) else "",
)
def test_a_gloss_becomes_a_sentence(thing: Thing, sentence: str) -> None:
    assert thing.sentence == sentence


def test_glosses_are_read_without_brackets_second_thoughts_and_examples(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(DATA)
    (tmp_path / "index.noun").write_text(INDEX)
    nouns = Nouns(tmp_path)
    assert nouns.sense("kite", 1).gloss == "plaything consisting of a light frame"
    assert nouns.sense("kite", 1).examples == ("fly a kite", "let it go")
    bird = nouns.sense("kite", 2)
    assert bird == nouns.sense("wild kite", 1)
    assert (bird.words, bird.gloss) == (("wild kite", "kite"), "a bird of prey")
    chosen = tmp_path / "things.txt"
    chosen.write_text("kite\nwild kite many\nkite 2 mass\n")
    assert [(t.name, t.how, t.gloss) for t in read_things(chosen, nouns)] == [
        ("kite", "", "plaything consisting of a light frame"),
        ("wild kite", "many", "a bird of prey"),
        ("kite", "mass", "a bird of prey"),
    ]


def test_a_missing_wordnet_names_its_package(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="apt-get install wordnet-base"):
        read_synsets(tmp_path / "data.noun")


def test_each_thing_is_asked_for_in_some_phrasings_and_always_the_same() -> None:
    assert phrasings_of(KITE) == phrasings_of(KITE)
    assert len(set(phrasings_of(KITE))) == ASKED < len(PHRASINGS)
    assert set(phrasings_of(KITE)) != set(phrasings_of(HONEY))


def test_an_answer_is_right_when_no_other_description_is_nearer() -> None:
    meanings = [KITE.meaning, HONEY.meaning, "a sweet yellow fruit"]
    assert is_right("Honey is a sweet yellow liquid made by bees.", HONEY, meanings)
    assert not is_right("Honey is a sweet yellow fruit.", HONEY, meanings)
    assert not is_right("Honey is a liquid.", HONEY, meanings), "too little of it"
    assert not is_right(UNKNOWN, HONEY, meanings)
    assert nearest("sweet yellow", [HONEY.meaning, HONEY.meaning + " and", KITE.meaning])[0] == HONEY.meaning
    assert nearest("nothing at all", [HONEY.meaning, KITE.meaning])[0] is None


@pytest.mark.slow
@needs_wordnet
def test_what_is_kept_for_measuring_is_not_in_the_corpus(tmp_path: Path) -> None:
    corpus = tmp_path / "glosses.txt"
    count = write_corpus(corpus)
    documents = set(corpus.read_text().strip().split("\n\n"))
    assert 0.5 * count < len(documents) <= count
    lines = corpus.read_text().splitlines()
    asked = {plain(line.removeprefix("User: ")) for line in lines if line.startswith("User: ")}
    nouns = Nouns()
    things = read_things(nouns=nouns)
    assert len({thing.name for thing in things}) == len(things) > 300
    for thing in things:
        assert thing.sentence in documents
        for phrasing in (*NEVER, *other_phrasings(thing)):
            assert plain(ask(phrasing, thing)) not in asked
    held = unknown_words(nouns, things, held=True)
    assert len(held) > 1000
    asked -= {plain(question) for question, _ in SMALL_TALK}
    assert not asked & {plain(ask(phrasing, Thing(word, "", ""))) for phrasing in PHRASINGS for word in held}
