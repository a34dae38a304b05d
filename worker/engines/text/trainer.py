"""``train-text``: a small Llama-class language model and its tokenizer, from a text file.

Documents are put in one row, and every batch is windows from anywhere in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from shared.catalog import tasks
from shared.errors import InvalidInput
from worker.engines.contract.datasets import Bpe, TextWanted
from worker.engines.contract.engine import Context, File, Progress, Result, TrainedModel, Work
from worker.engines.training.loop import Budget, Keeper, Loop, autocast, keep_heap
from worker.engines.training.picture_rows import zip_folder
from worker.engines.training.trainer import NothingResident, Recipe
from worker.inputs.datasets import Text

END = "<|endoftext|>"
CHECKPOINT_SECONDS = 60.0
HEAD_WIDTH = 32
#: conversations are plain text, so that any corpus can hold them and no token is special to them
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ message['role'].capitalize() }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRecipe(Recipe):
    """The input of a ``train-text`` job, without the data."""

    batch: int
    context: int
    vocabulary: int
    width: int
    layers: int

    def budget(self) -> Budget:
        return replace(self.limits(), warmup=50, hold=0.2, decay=0.99, weight_decay=0.05)


class TextTrainer(NothingResident):
    """The engine of ``train-text``."""

    def wants(self, given: Mapping[str, Any], resume: Path | None) -> TextWanted:
        to_train = _tokenizer_to_train(given["vocabulary"])
        return TextWanted(tokenizer=to_train if resume is None else resume / "tokenizer.json", end=END)

    def run(self, loaded: None, work: Work, context: Context) -> Result:
        """Raises InvalidInput for a text that is too short."""
        keep_heap()
        recipe = TextRecipe.of(work.input)
        text: Text = work.input["dataset"]
        context.boundary(Progress("dataset", 0))
        tokens, kept = torch.from_numpy(text.tokens), context.resume
        if len(tokens) < 2 * recipe.context:
            raise InvalidInput.at(
                "/input/dataset",
                f"has {len(tokens)} tokens; give at least {2 * recipe.context}, or a smaller context",
            )
        run = _Run(recipe, Tokenizer.from_str(text.tokenizer), tokens, context.device.name)
        if kept is not None:
            run.loop.restore(kept)
        run.train(context)
        folder = context.scratch / "model"
        run.export(folder, chat=text.chat)
        archive = zip_folder(folder, context.scratch / "model.zip")
        loop, millions = run.loop, sum(p.numel() for p in run.model.parameters()) / 1e6
        value = {"steps": loop.step, "seconds": round(loop.seconds, 1), "loss": round(loop.loss, 4)}
        return Result(
            outputs=(File(path=archive, media_type="application/zip"),),
            value=value,
            model=TrainedModel(
                folder=folder,
                task="text-generation",
                engine="text",
                input_schema=tasks.load("text-generation"),
                description=f"A Llama of {millions:.1f} million parameters, trained {loop.step} steps.",
            ),
        )


class _Run:
    """A training run: what must be kept to go on exactly where it stopped."""

    def __init__(self, recipe: TextRecipe, tokenizer: Tokenizer, tokens: Tensor, device: str) -> None:
        self.recipe, self.tokenizer, self.tokens, self.device = recipe, tokenizer, tokens, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            config = _config(recipe, tokenizer.get_vocab_size())
            # the backward pass of the fused attention is slow on CPUs: 193 ms a step where this takes 148
            config._attn_implementation = "eager" if device == "cpu" else "sdpa"
            self.model = LlamaForCausalLM(config)
        cast(nn.Module, self.model).to(device)
        self.loop = Loop({"model": self.model}, recipe.budget(), recipe.seed)

    def train(self, context: Context) -> None:
        self.model.train()
        self.loop.run(self._loss, "train", Keeper(context, CHECKPOINT_SECONDS), self.save)
        self.loop.adopt_average()

    def _loss(self, draw: torch.Generator) -> Tensor:
        windows = self._batch(draw).to(self.device)
        with autocast(self.device):
            logits = self.model(windows[:, :-1], use_cache=False).logits
        return functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())

    def _batch(self, draw: torch.Generator) -> Tensor:
        """Windows of text from anywhere, int64 (batch, context + 1)."""
        length = self.recipe.context + 1
        starts = torch.randint(len(self.tokens) - length + 1, (self.recipe.batch,), generator=draw)
        return self.tokens[starts[:, None] + torch.arange(length)].long()

    def save(self, folder: Path) -> None:
        self.loop.save(folder)
        (folder / "tokenizer.json").write_text(self.tokenizer.to_str(), "utf-8")

    def export(self, folder: Path, *, chat: bool) -> None:
        """Write what ``AutoModelForCausalLM`` and ``AutoTokenizer`` read: safetensors, float16."""
        cast(nn.Module, self.model).half()
        self.model.save_pretrained(folder)
        PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=self.tokenizer,
            bos_token=END,
            eos_token=END,
            pad_token=END,
            model_max_length=self.recipe.context,
            clean_up_tokenization_spaces=False,
            **({"chat_template": CHAT_TEMPLATE} if chat else {}),
        ).save_pretrained(folder)


def _tokenizer_to_train(vocabulary: int) -> Bpe:
    """A byte-level BPE: every text can be encoded, whatever the corpus held."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # A prompt begins as every document does: after an end.
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return Bpe(
        template=tokenizer.to_str(),
        trainer={"vocab_size": vocabulary, "special_tokens": [END], "initial_alphabet": alphabet},
    )


def _config(recipe: TextRecipe, vocabulary: int) -> LlamaConfig:
    heads = recipe.width // HEAD_WIDTH
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 8 // 3,
        num_hidden_layers=recipe.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 3) if heads % 3 == 0 else heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
