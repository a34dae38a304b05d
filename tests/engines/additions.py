"""What a tiny pipeline can have beside its own weights, random too: LoRA adapters and a ControlNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict


def save_lora(pipeline: Path, folder: Path, *, seed: int, text: bool = False) -> Path:
    """An adapter for the U-Net of a saved pipeline, and with ``text`` for its text encoder too."""
    torch.manual_seed(seed)
    pipe: Any = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    parts = {"unet": (pipe.unet, ["to_q", "to_v"])}
    if text:
        parts["text_encoder"] = (pipe.text_encoder, ["q_proj", "v_proj"])
    for part, targets in parts.values():
        # not the usual start, which changes nothing yet
        part.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=targets, init_lora_weights=False))
    pipe.save_lora_weights(
        folder,
        **{f"{name}_lora_layers": get_peft_model_state_dict(part) for name, (part, _) in parts.items()},
        **_collate_lora_metadata({name: part for name, (part, _) in parts.items()}),
    )
    return next(folder.glob("*.safetensors"))


def save_controlnet(pipeline: Path, folder: Path) -> Path:
    """A ControlNet for the U-Net of a saved pipeline."""
    torch.manual_seed(7)
    network = ControlNetModel.from_unet(
        UNet2DConditionModel.from_pretrained(pipeline / "unet"),
        # the tiny autoencoder makes latents of half the picture's size
        conditioning_embedding_out_channels=(16, 32),
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)  # its last layers start at zero
    network.save_pretrained(folder, safe_serialization=True)
    return folder
