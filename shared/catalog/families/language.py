"""Text from causal language models."""

from __future__ import annotations

from shared.catalog.entries.family import JSON, Family, Starter, Task, Training

FAMILY = Family(
    name="language",
    engines={
        "text": "worker.engines.text.engine:TextEngine",
        "train-text": "worker.engines.text.trainer:TextTrainer",
    },
    tasks={"text-generation": Task("text", JSON)},
    trainings={"train-text": Training(Task("train-text", JSON))},
    starters=[Starter("starter-text", "text", "text-generation")],
)
