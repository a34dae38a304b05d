"""The parts of a small StableDiffusionPipeline, each with random weights, sized by the job's input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from worker.engines.contract.datasets import Bpe
from worker.engines.weights import complete

#: two halvings: 64 pixels are 16 latents
DOWNSCALE = 4
#: the libraries load their classes lazily and leave most of them without types
Net = Any
_diffusers: Any = diffusers
_transformers: Any = transformers
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def autoencoder(given: Mapping[str, Any]) -> Net:
    """Pixels (n, 3, size, size) in [-1, 1] ↔ latents (n, channels, size / 4, size / 4) of deviation 1."""
    widths = (given["autoencoder_channels"],) * 3
    return _diffusers.AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(0, 2, 3),  # full-size blocks cost half of the time and bring little
        num_decoder_blocks=(4, 2, 1),
        latent_channels=given["latent_channels"],
        scaling_factor=1.0,
    )


def denoiser(given: Mapping[str, Any]) -> Net:
    """A U-Net whose levels below the first attend to the text."""
    channels = tuple(given["channels"])
    deep = len(channels) - 1
    net = _diffusers.UNet2DConditionModel(
        sample_size=given["size"] // DOWNSCALE,
        in_channels=given["latent_channels"],
        out_channels=given["latent_channels"],
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * deep),
        up_block_types=(*("CrossAttnUpBlock2D",) * deep, "UpBlock2D"),
        cross_attention_dim=given["text_channels"],
        attention_head_dim=4,
        norm_num_groups=16,
    )
    # The backward pass of the fused attention took 29 % of a step on a CPU for sequences this short.
    net.set_attn_processor(AttnProcessor())
    return net


def text_encoder(given: Mapping[str, Any], tokens: Net) -> Net:
    width = given["text_channels"]
    config = _transformers.CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=given["text_layers"],
        num_attention_heads=width // 32,
        max_position_embeddings=tokens.model_max_length,
        projection_dim=width,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return _transformers.CLIPTextModel._from_config(config, attn_implementation="eager")


def tokenizer_to_train(given: Mapping[str, Any]) -> Bpe:
    """A byte pair encoding of captions, normalised and cut as CLIP's."""
    clip = _transformers.CLIPTokenizer().backend_tokenizer
    learned = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learned.normalizer, learned.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = {
        "vocab_size": given["vocabulary"],
        # Letters that end a word are given their ids here: else these are dealt out at random, ties between
        # merges fall differently in each run, and letters that no caption ends with are unknown.
        "special_tokens": [*_SPECIAL, *(f"{letter}</w>" for letter in letters)],
        "end_of_word_suffix": "</w>",
        "initial_alphabet": letters,
    }
    return Bpe(template=learned.to_str(), trainer=trainer)


def trained_tokenizer(text: str, given: Mapping[str, Any]) -> Net:
    """CLIP's tokenizer with what was learned, which ``text`` holds in the JSON of the library."""
    learned = Tokenizer.from_str(text)
    vocabulary = learned.get_vocab(with_added_tokens=True)
    merges = [(first, second) for first, second in json.loads(text)["model"]["merges"]]
    return _transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=given["tokens"])


def scheduler() -> Net:
    """v-prediction with zero terminal SNR and trailing steps (arXiv 2305.08891): white stays white."""
    return _diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def pipeline(vae: Net, text: Net, tokens: Net, unet: Net, scheduler: Net) -> Net:
    made = _diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokens,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def token_ids(tokens: Net, captions: Iterable[str]) -> Tensor:
    """int64 (captions, tokens), padded and cut to the model's length."""
    return torch.tensor(
        tokens(list(captions), padding="max_length", truncation=True)["input_ids"], dtype=torch.int64
    )


def saved_autoencoder(folder: Path) -> Net:
    with complete("the autoencoder"):
        net = _diffusers.AutoencoderTiny.from_pretrained(folder)
    net.register_to_config(_name_or_path="")  # where this worker had it is nobody's business
    return net


def saved_tokenizer(folder: Path) -> Net:
    return _transformers.CLIPTokenizer.from_pretrained(folder)


def saved_scheduler(folder: Path) -> Net:
    return _diffusers.DDIMScheduler.from_pretrained(folder)
