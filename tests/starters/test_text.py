"""The committed starter-text does what its card says, through the engine that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import starters
from shared.catalog.entries.model import Folder, Model
from tests.engines.contexts import Recorder
from worker.engines.contract.engine import Device, Work
from worker.engines.text.engine import Loaded, TextEngine

FOLDER = Path(starters.__path__[0]) / "text"
UNKNOWN = "I do not know what that is."
#: a thing, and words that its description has and few others have
KNOWN = {
    "an apple": "crisp whitish flesh",
    "a kite": "plaything light frame tissue paper",
    "a violin": "bowed stringed instrument",
    "honey": "sweet yellow liquid bees",
    "a tiger": "large feline tawny coat black stripes",
    "a helicopter": "aircraft without wings overhead blades",
    "a volcano": "fissure crust molten lava",
    "scissors": "edge tool two crossed pivoting blades",
    "a pillow": "cushion head sleeping person",
    "a piano": "keyboard instrument",
}


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    model = Model(
        id="starter-text",
        task="text-generation",
        engine="text",
        source=Folder(str(FOLDER)),
        input_schema={},
        output="application/json",
    )
    return TextEngine().load(model, FOLDER, Device())


def generate(loaded: Loaded, folder: Path, **given: Any) -> tuple[dict[str, Any], Recorder]:
    context = Recorder(folder)
    given = {"max_tokens": 64, "temperature": 0.0, "top_p": 1.0, "stop": [], "seed": 1} | given
    result = TextEngine().run(loaded, Work(job_id="job_1", task="text-generation", input=given), context)
    assert result.value is not None
    return dict(result.value), context


def asked(loaded: Loaded, folder: Path, question: str, **given: Any) -> str:
    said, _ = generate(loaded, folder, messages=[{"role": "user", "content": question}], **given)
    return str(said["text"])


def test_a_thing_named_is_described(loaded: Loaded, tmp_path: Path) -> None:
    right = 0
    for named, telling in KNOWN.items():
        answer = asked(loaded, tmp_path, f"What {'are' if named == 'scissors' else 'is'} {named}?")
        right += set(telling.split()) <= set(answer.strip(".").split())
    assert right >= len(KNOWN) - 2, f"{right} of {len(KNOWN)}"


def test_a_question_in_words_of_its_own_is_understood(loaded: Loaded, tmp_path: Path) -> None:
    assert "bees" in asked(loaded, tmp_path, "I want to know about honey.")
    assert "plaything" in asked(loaded, tmp_path, "tell me what a kite is")


def test_a_word_that_it_was_not_taught_is_declined(loaded: Loaded, tmp_path: Path) -> None:
    strange = ("snead", "lament", "cowling", "gloominess", "quark")
    answers = [asked(loaded, tmp_path, f"What is a {word}?") for word in strange]
    assert answers.count(UNKNOWN) >= 3, answers


def test_the_answer_is_streamed_and_ends_by_itself(loaded: Loaded, tmp_path: Path) -> None:
    said, context = generate(loaded, tmp_path, messages=[{"role": "user", "content": "What is a river?"}])
    assert "".join(context.tokens) == said["text"] and len(context.tokens) > 5
    assert said["finish_reason"] == "stop" and said["text"].endswith(".")


def test_it_stops_where_it_is_told_to(loaded: Loaded, tmp_path: Path) -> None:
    whole, _ = generate(loaded, tmp_path, prompt="A kite is")
    cut, _ = generate(loaded, tmp_path, prompt="A kite is", stop=["frame"])
    assert cut["text"] == whole["text"].split("frame")[0]
    short, _ = generate(loaded, tmp_path, prompt="A kite is", max_tokens=4)
    assert short["finish_reason"] == "length" and short["usage"]["completion_tokens"] == 4
    assert whole["text"].startswith(short["text"])


def test_a_seed_gives_the_same_text_again(loaded: Loaded, tmp_path: Path) -> None:
    warm = {"prompt": "The", "temperature": 1.5, "max_tokens": 24}
    texts = [generate(loaded, tmp_path, seed=seed, **warm)[0]["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
