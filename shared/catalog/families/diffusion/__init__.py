"""Pictures by diffusion: any pipeline of diffusers."""

from __future__ import annotations

from shared.catalog.entries.family import JSON, Family, HubFiles, Starter, Task, Training
from shared.catalog.families.diffusion import base_models
from shared.catalog.families.diffusion.additions import KEYS, extend

_PICTURE = Task("diffusion", "image/png")

FAMILY = Family(
    name="diffusion",
    engines={
        "diffusion": "worker.engines.diffusion.engine:DiffusionEngine",
        "train-diffusion": "worker.engines.diffusion.training.trainer:DiffusionTrainer",
    },
    tasks={"text-to-image": _PICTURE, "image-to-image": _PICTURE, "inpainting": _PICTURE},
    together={
        "text-to-image": ("image-to-image", "inpainting"),
        "image-to-image": ("inpainting",),
    },
    trainings={"train-diffusion": Training(Task("train-diffusion", JSON), base_models.unfit)},
    starters=[
        Starter(
            "starter-image",
            "image",
            "text-to-image",
            {
                # the denoiser halves its 16 x 16 latents twice
                "width": {"minimum": 64, "maximum": 128, "multipleOf": 16, "default": 64},
                "height": {"minimum": 64, "maximum": 128, "multipleOf": 16, "default": 64},
                "steps": {"default": 20},
                "guidance_scale": {"default": 3.0},
                # the text encoder has two layers
                "clip_skip": {"maximum": 1},
            },
        )
    ],
    # a pipeline's parts lie in folders; a file of weights beside these holds all of them once more
    hub=HubFiles(("model_index.json", *(f"*/{pattern}" for pattern in HubFiles().wanted)), depth=2),
    keys=KEYS,
    options={"type": "object", "properties": {"offload": {"enum": ["none", "model", "group"]}}},
    extend=extend,
)
