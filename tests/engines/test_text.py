"""Text generation: one token at a time, by the job's own dice, ended where it was told to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import starters
from shared.catalog.entries.model import Folder, Model
from shared.errors import InvalidInput, ModelUnavailable
from tests.engines.contexts import Recorder
from worker.engines.contract.engine import Device, Stopped, Work
from worker.engines.text.engine import Detokenizer, Loaded, TextEngine, read_prompt

STARTER = Path(starters.__path__[0]) / "text"
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def tokenizer(**more: Any) -> PreTrainedTokenizerFast:
    """Every byte is a token."""
    vocabulary = {"<|end|>": 0} | {letter: number for number, letter in enumerate(BYTES, 1)}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|end|>", **more)


def model(folder: Path) -> Model:
    return Model(
        id="tiny",
        task="text-generation",
        engine="text",
        source=Folder(str(folder)),
        input_schema={},
        output="application/json",
    )


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """An untrained model: its text is noise, which is all that these tests need."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(BYTES) + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        eos_token_id=0,
        bos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return TextEngine().load(model(folder), folder, Device())


def generate(loaded: Loaded, context: Recorder, **given: Any) -> dict[str, Any]:
    given = {"max_tokens": 24, "temperature": 1.0, "top_p": 0.95, "stop": [], "seed": 7} | given
    if "messages" not in given:
        given.setdefault("prompt", "An apple is")
    result = TextEngine().run(loaded, Work(job_id="job_1", task="text-generation", input=given), context)
    assert result.value is not None
    return dict(result.value)


def test_a_seed_gives_the_same_text_whatever_else_draws_random_numbers(
    loaded: Loaded, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    first = generate(loaded, Recorder(tmp_path))
    torch.rand(1000)
    state = torch.get_rng_state()
    assert generate(loaded, Recorder(tmp_path)) == first
    assert torch.get_rng_state().equal(state), "a job must leave the global generator alone"
    assert generate(loaded, Recorder(tmp_path), seed=8) != first


def test_a_cache_changes_nothing(loaded: Loaded, tmp_path: Path) -> None:
    """Greedy tokens equal those of a forward over the whole text each time."""
    said = generate(loaded, Recorder(tmp_path), temperature=0, max_tokens=12)
    row = loaded.tokenizer("An apple is", return_tensors="pt")["input_ids"]
    for _ in range(said["usage"]["completion_tokens"]):
        with torch.inference_mode():
            row = torch.cat([row, loaded.model(row).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert loaded.tokenizer.decode(row[0]).startswith("An apple is" + said["text"][:8])


def test_pieces_add_up_to_the_text_and_every_token_is_a_boundary(loaded: Loaded, tmp_path: Path) -> None:
    context = Recorder(tmp_path)
    said = generate(loaded, context)
    assert "".join(context.tokens) == said["text"]
    assert [p.step for p in context.progress] == list(range(said["usage"]["completion_tokens"] + 1))


def test_the_usage_counts_and_the_reason_is_told(loaded: Loaded, tmp_path: Path) -> None:
    said = generate(loaded, Recorder(tmp_path), max_tokens=5, temperature=0)
    assert said["finish_reason"] == "length"
    assert said["usage"] == {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}


def test_a_job_is_canceled_between_two_tokens(loaded: Loaded, tmp_path: Path) -> None:
    context = Recorder(tmp_path, stop_at=4)
    with pytest.raises(Stopped):
        generate(loaded, context, temperature=0)
    assert context.progress[-1].step == 3


def test_a_stop_string_ends_the_text_and_is_not_part_of_it(loaded: Loaded, tmp_path: Path) -> None:
    whole = generate(loaded, Recorder(tmp_path))["text"]
    stop = whole[6:9]
    context = Recorder(tmp_path)
    said = generate(loaded, context, stop=stop)
    assert said["finish_reason"] == "stop"
    assert said["text"] == whole[: whole.index(stop)] == "".join(context.tokens)


def test_the_context_limits_prompt_and_text_together(loaded: Loaded, tmp_path: Path) -> None:
    said = generate(loaded, Recorder(tmp_path), prompt="x" * 60, max_tokens=100, temperature=0)
    assert said["usage"]["total_tokens"] <= 64
    with pytest.raises(InvalidInput, match="80 tokens long; this model reads at most 63") as caught:
        generate(loaded, Recorder(tmp_path), prompt="x" * 80)
    assert caught.value.errors[0].pointer == "/input/prompt"


def test_messages_without_a_template_become_lines_and_the_next_line_ends_the_answer() -> None:
    prompt = read_prompt(tokenizer(), {"messages": [{"role": "user", "content": "Hello"}], "stop": "!"})
    assert tokenizer().decode(prompt.tokens) == "User: Hello\nAssistant:"
    assert prompt.stops == ("!", "\nUser:")


def test_messages_go_through_the_template_of_the_tokenizer() -> None:
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    known = tokenizer(chat_template=template)
    prompt = read_prompt(known, {"messages": [{"role": "user", "content": "Hello"}]})
    assert known.decode(prompt.tokens) == "<user>Hello"


def pieces(text: str, stops: tuple[str, ...] = (), strip: bool = False) -> tuple[list[str], str]:
    """What is streamed of ``text`` when its bytes come one by one."""
    known, said = tokenizer(), []
    taker = Detokenizer(known, known("before")["input_ids"], said.append, stops, strip)
    for token in known(text)["input_ids"]:
        if taker.add(token):
            break
    taker.close()
    return said, taker.text


def test_a_character_of_several_bytes_is_streamed_whole() -> None:
    said, text = pieces("an äpfel 🍎 is")
    assert text == "an äpfel 🍎 is" == "".join(said)
    assert {"ä", "🍎"} <= set(said)
    assert not any("\ufffd" in piece for piece in said)


def test_what_may_become_a_stop_string_is_held_back_until_it_is_certain() -> None:
    said, text = pieces("one STOX two STOP three", ("STOP",))
    assert text == "one STOX two " == "".join(said)
    assert "S" not in said
    assert pieces("ends with STO", ("STOP",))[1] == "ends with STO"
    assert pieces("abcd", ("cd", "bc"))[1] == "a"


def test_an_answer_does_not_begin_with_space() -> None:
    assert pieces("  An apple", strip=True)[0][0] == "A"


def test_broken_bytes_at_the_end_do_not_get_lost_in_silence() -> None:
    known, said = tokenizer(), []
    taker = Detokenizer(known, [], said.append)
    for token in known("ab🍎")["input_ids"][:-1]:
        taker.add(token)
    taker.close()
    assert taker.text.startswith("ab")
    assert taker.text.endswith("\ufffd")


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="tiny"):
        TextEngine().load(model(tmp_path), tmp_path, Device())


def test_the_starter_writes_entries_that_end_by_themselves(tmp_path: Path) -> None:
    loaded = TextEngine().load(model(STARTER), STARTER, Device())
    said = generate(
        loaded,
        Recorder(tmp_path),
        messages=[{"role": "user", "content": "What is an apple?"}],
        temperature=0,
        max_tokens=60,
    )
    assert said["text"][0].isupper() and said["text"].endswith(".")
    assert len(said["text"].split()) > 5
    assert said["finish_reason"] == "stop"
    again = generate(loaded, Recorder(tmp_path), prompt="A river is", seed=1)
    assert len(again["text"].split()) > 3


class NeverEncodes:
    """A tokenizer that must not be asked."""

    chat_template = "{{ messages }}"

    def __call__(self, *_: object, **__: object) -> None:
        raise AssertionError("the text was encoded")

    apply_chat_template = __call__


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"prompt": "word " * 205}, "/input/prompt"),
        ({"messages": [{"role": "user", "content": "word " * 100}] * 3}, "/input/messages"),
    ],
)
def test_text_that_no_context_can_hold_is_refused_before_it_is_rendered_or_encoded(
    given: dict[str, Any], pointer: str
) -> None:
    known: Any = NeverEncodes()
    with pytest.raises(
        InvalidInput, match="at most 63 tokens, and never more than 1024 characters"
    ) as caught:
        read_prompt(known, given, 64)
    assert caught.value.errors[0].pointer == pointer


def test_the_largest_conversation_that_the_api_takes_holds_nobody_up(loaded: Loaded, tmp_path: Path) -> None:
    """24 MB of UTF-8: encoded, they kept the engine thread busy for most of a minute."""
    messages = [{"role": "user", "content": "\u20ac" * 32_768}] * 256
    context = Recorder(tmp_path)
    with pytest.raises(InvalidInput, match="/input/messages: has 8388608 characters"):
        generate(loaded, context, messages=messages)
    assert not context.progress


def test_a_model_without_a_limit_reads_a_bounded_prompt_all_the_same() -> None:
    known: Any = NeverEncodes()
    with pytest.raises(InvalidInput, match="never more than 1048576 characters"):
        read_prompt(known, {"messages": [{"role": "user", "content": "x" * 2**20}] * 2})
