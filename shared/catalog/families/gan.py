"""Pictures from GANs."""

from __future__ import annotations

from shared.catalog.entries.family import JSON, Family, Starter, Task, Training

FAMILY = Family(
    name="gan",
    engines={
        "gan": "worker.engines.gan.engine:GanEngine",
        "train-gan": "worker.engines.gan.trainer:GanTrainer",
    },
    tasks={"unconditional-image-generation": Task("gan", "image/png")},
    trainings={"train-gan": Training(Task("train-gan", JSON))},
    starters=[Starter("starter-gan", "gan", "unconditional-image-generation")],
)
