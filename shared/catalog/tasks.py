"""What each task takes, gives, and is done by."""

from __future__ import annotations

from typing import NamedTuple

JSON = "application/json"


class Task(NamedTuple):
    """``schema`` is a name in ``schemas``, ``output`` a media type (JSON: the job's ``result``)."""

    engine: str
    schema: str
    output: str


#: tasks that an operator's or a trained model can have
TASKS = {
    "text-to-image": Task("diffusion", "text_to_image", "image/png"),
    "image-to-image": Task("diffusion", "image_to_image", "image/png"),
    "inpainting": Task("diffusion", "inpainting", "image/png"),
    "unconditional-image-generation": Task("gan", "gan", "image/png"),
    "text-generation": Task("text", "text", JSON),
}

#: tasks that an operator's model of this task may do besides
TOGETHER = {
    "text-to-image": ("image-to-image", "inpainting"),
    "image-to-image": ("inpainting",),
}

#: tasks that make a model; each is its own and only model
TRAININGS = {
    "train-diffusion": Task("train-diffusion", "train_diffusion", JSON),
    "train-gan": Task("train-gan", "train_gan", JSON),
    "train-text": Task("train-text", "train_text", JSON),
}
