"""Text generation: a causal language model of transformers, one token at a time.

``generate`` draws from the global generator, so two jobs would change each other's text; here every job
draws from its own, and can be canceled between any two tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import FloatTensor, LongTensor, Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from shared.catalog.entries.model import Model
from shared.errors import InvalidInput, ModelUnavailable
from worker.engines.contract.engine import Context, Device, Progress, Result, Work
from worker.engines.memory import memory_errors, module_bytes
from worker.engines.weights import complete

#: a decoder may need the token before to know whether a space belongs in front
_LOOK_BACK = 6
#: characters that are encoded for each token of the model's context: text has some four, and what has more
#: than this would hold up everybody else while it is encoded, only to be too long
CHARACTERS_PER_TOKEN = 16
#: tokens that a model without a limit is given to read
_UNLIMITED = 65_536
_UNFINISHED = "\ufffd"  # what a decoder writes for the first bytes of a character


@dataclass(frozen=True, slots=True)
class Loaded:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]
    #: most tokens of prompt and answer together; None where the model has no limit
    context: int | None


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens to go on from; ``answer`` says that leading space belongs to the form, not to the text."""

    tokens: list[int]
    pointer: str
    answer: bool
    stops: tuple[str, ...]


class TextEngine:
    """The engine of ``text-generation``."""

    def load(self, model: Model, folder: Path | None, device: Device) -> Loaded:
        if folder is None:
            raise ModelUnavailable(f"model {model.id} has no files; name a folder or a hub repository")
        trust = model.trust_remote_code
        with complete(f"model {model.id}"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
            network = AutoModelForCausalLM.from_pretrained(
                folder,
                trust_remote_code=trust,
                local_files_only=True,
                use_safetensors=True,
                dtype=getattr(torch, device.dtype),
            )
        with memory_errors(f"loading {model.id}"):
            cast(nn.Module, network).to(device.name).eval()
        return Loaded(network, tokenizer, _ends(network, tokenizer), _context(network))

    def nbytes(self, loaded: Loaded) -> int:
        return module_bytes(loaded.model)

    def run(self, loaded: Loaded, work: Work, context: Context) -> Result:
        given = work.input
        prompt = read_prompt(loaded.tokenizer, given, loaded.context)
        room = _room(loaded, prompt, given["max_tokens"])
        pieces = Detokenizer(loaded.tokenizer, prompt.tokens, context.token, prompt.stops, prompt.answer)
        reason = _decode(_Decoder(loaded, prompt.tokens, given), room, pieces, context)
        pieces.close()
        used, made = len(prompt.tokens), pieces.count
        usage = {"prompt_tokens": used, "completion_tokens": made, "total_tokens": used + made}
        return Result(value={"text": pieces.text, "finish_reason": reason, "usage": usage})


class _Decoder:
    """Draws one token after the other, each from all before it."""

    def __init__(self, loaded: Loaded, prompt: list[int], given: Mapping[str, Any]) -> None:
        self._model, self.ends = loaded.model, loaded.ends
        random = torch.Generator(self._model.device).manual_seed(given["seed"])
        self._choose = sampler(given["temperature"], given["top_p"], random)
        #: the tokens so far, int64 (1, n), and those of them that the model has not read yet
        self._row = torch.tensor([prompt], device=self._model.device)
        self._fresh, self._cache = self._row, None

    @torch.inference_mode()
    def next(self) -> int:
        """Draw a token."""
        out = self._model(input_ids=self._fresh, past_key_values=self._cache, use_cache=True)
        self._cache = out.past_key_values
        token = self._choose(self._row, out.logits[:, -1].float())
        self._fresh = torch.tensor([[token]], device=self._model.device)
        self._row = torch.cat([self._row, self._fresh], dim=1)
        return token


def _decode(decoder: _Decoder, room: int, pieces: Detokenizer, context: Context) -> str:
    """Draw up to ``room`` tokens into ``pieces`` and return why it ended, "stop" or "length"."""
    context.boundary(Progress("generate", 0, room))
    for step in range(1, room + 1):
        token = context.compute(decoder.next, "generating; give a shorter prompt")
        if token in decoder.ends or pieces.add(token):
            return "stop"
        context.boundary(Progress("generate", step, room))
    return "length"


def sampler(temperature: float, top_p: float, random: torch.Generator) -> Callable[[Tensor, Tensor], int]:
    """A function of (tokens so far, (1, n); logits, (1, vocabulary)) that draws the next token."""
    if temperature == 0:
        return lambda _row, logits: int(logits.argmax(-1))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(temperature))])
    if top_p < 1:
        warpers.append(TopPLogitsWarper(float(top_p)))

    def draw(row: Tensor, logits: Tensor) -> int:
        chances = warpers(cast(LongTensor, row), cast(FloatTensor, logits)).softmax(-1)
        return int(torch.multinomial(chances, 1, generator=random))

    return draw


class Detokenizer:
    """Tokens in, text out: whole characters only, and nothing that belongs to a stop string.

    ``emit`` gets each piece as soon as it is certain; all pieces together are ``text``.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Sequence[int],
        emit: Callable[[str], None],
        stops: Sequence[str] = (),
        strip: bool = False,
    ) -> None:
        self._tokenizer, self._emit, self._stops, self._strip = tokenizer, emit, tuple(stops), strip
        self._tokens = list(prompt[-_LOOK_BACK:])
        self._known = self._decoded(self._tokens)
        self._held = ""
        self._ended = False
        self.count = 0
        self.text = ""

    def add(self, token: int) -> bool:
        """Take the next token; True where a stop string is complete, and nothing more is wanted."""
        self.count += 1
        self._tokens.append(token)
        decoded = self._decoded(self._tokens)
        if decoded.endswith(_UNFINISHED) and len(self._tokens) < 4 * _LOOK_BACK:
            return False
        self._take(decoded[len(self._known) :])
        self._tokens = self._tokens[-_LOOK_BACK:]
        self._known = self._decoded(self._tokens)
        return self._ended

    def close(self) -> None:
        """Give out what was held back; no stop string can come any more."""
        if not self._ended:
            self._take(self._decoded(self._tokens)[len(self._known) :])
        if not self._ended:
            self._give(self._held)
        self._held = ""

    def _take(self, text: str) -> None:
        self._held += text
        if self._strip:
            self._held = self._held.lstrip()
            self._strip = not self._held
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self._give(self._held[: min(found)])
            self._held, self._ended = "", True
            return
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        self._give(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]

    def _give(self, text: str) -> None:
        if text:
            self.text += text
            self._emit(text)

    def _decoded(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def read_prompt(
    tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any], context: int | None = None
) -> Prompt:
    """The prompt's tokens. Messages go through the tokenizer's chat template; where it has none, they
    become lines "User: …", "Assistant: …", and the next "User:" ends the answer.

    Raises InvalidInput, before anything is encoded, for more text than so many tokens can hold."""
    _check_length(given, _UNLIMITED if context is None else context)
    stop = given.get("stop") or ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if "messages" not in given:
        return Prompt(_tokens(tokenizer, given["prompt"], special=True), "/input/prompt", False, stops)
    messages = list(given["messages"])
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = _tokens(tokenizer, str(text), special=False)
    else:
        lines = [f"{m['role'].capitalize()}: {m['content']}\n" for m in messages]
        tokens = _tokens(tokenizer, "".join(lines) + "Assistant:", special=True)
        stops = (*stops, "\nUser:")
    return Prompt(tokens, "/input/messages", True, stops)


def _check_length(given: Mapping[str, Any], context: int) -> None:
    most = CHARACTERS_PER_TOKEN * context
    together = "messages" in given
    texts = [message["content"] for message in given["messages"]] if together else [given["prompt"]]
    if (length := sum(map(len, texts))) > most:
        raise InvalidInput.at(
            "/input/messages" if together else "/input/prompt",
            f"has {length} characters; this model reads at most {context - 1} tokens, and never more than "
            f"{most} characters",
        )


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def _room(loaded: Loaded, prompt: Prompt, wanted: int) -> int:
    """How many tokens may be made: ``wanted``, or what the context leaves."""
    if not prompt.tokens:
        raise InvalidInput.at(prompt.pointer, "holds no token; write at least one word")
    if loaded.context is None:
        return wanted
    left = loaded.context - len(prompt.tokens)
    if left < 1:
        raise InvalidInput.at(
            prompt.pointer,
            f"is {len(prompt.tokens)} tokens long; this model reads at most {loaded.context - 1}",
        )
    return min(wanted, left)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` could be the beginning of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _ends(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = getattr(network.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(t for t in (*several, tokenizer.eos_token_id) if t is not None)


def _context(network: PreTrainedModel) -> int | None:
    config = network.config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
