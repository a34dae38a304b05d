"""``train-gan``: a generator learns to draw by deceiving a discriminator (Goodfellow et al. 2014).

Three things keep the game in balance where data are few: R1, a penalty on the discriminator's gradient at
real pictures (Mescheder et al. 2018); differentiable augmentation; and an average of the generator's weights,
which is what is kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from shared.catalog import tasks
from shared.errors import InvalidInput
from shared.schema.specialise import specialise
from worker.engines.contract.datasets import PicturesWanted
from worker.engines.contract.engine import (
    Context,
    File,
    Image,
    Progress,
    Result,
    TrainedModel,
    Work,
)
from worker.engines.gan.engine import write_generator
from worker.engines.gan.networks import Discriminator, Generator, Shape
from worker.engines.training.augment import augment
from worker.engines.training.loop import Budget, Keeper, keep_heap
from worker.engines.training.picture_rows import Rows, grid, zip_folder
from worker.engines.training.sample_grid import History
from worker.engines.training.trainer import NothingResident, Recipe
from worker.inputs.datasets import Pictures

CHECKPOINT_SECONDS = 60.0
PREVIEW_SECONDS = 20.0
#: R1 is dear, and every so many steps are enough where its weight is raised as much (Karras et al. 2020)
R1_EVERY = 8
COLUMNS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class GanRecipe(Recipe):
    """The input of a ``train-gan`` job, without the data."""

    image_size: int
    batch: int
    width: int
    latent: int
    loss: str
    r1: float

    def budget(self) -> Budget:
        return replace(self.limits(), warmup=20, hold=0.6, decay=0.997)


class GanTrainer(NothingResident):
    """The engine of ``train-gan``."""

    def wants(self, given: Mapping[str, Any], resume: Path | None) -> PicturesWanted:
        return PicturesWanted(size=given["image_size"])

    def run(self, loaded: None, work: Work, context: Context) -> Result:
        keep_heap()
        recipe = GanRecipe.of(work.input)
        context.boundary(Progress("dataset", 0))
        pictures: Pictures = work.input["dataset"]
        game = Game(recipe, pictures, context.device.name)
        if context.resume is not None:
            game.restore(context.resume)
        game.play(context)
        folder = context.scratch / "model"
        context.compute(partial(game.export, folder))
        strip = game.history.draw(context.scratch / "training.png")
        archive = zip_folder(folder, context.scratch / "model.zip")
        labels = list(game.shape.labels)
        return Result(
            outputs=(
                File(path=strip, media_type="image/png"),
                File(path=archive, media_type="application/zip"),
            ),
            value={"steps": game.step, "seconds": round(game.seconds, 1), "pictures": len(pictures)},
            model=TrainedModel(
                folder=folder,
                task="unconditional-image-generation",
                engine="gan",
                input_schema=specialise(
                    tasks.load("unconditional-image-generation"),
                    {"label": {"enum": labels} if labels else False},
                ),
                description=f"A GAN for pictures of {recipe.image_size} pixels, trained {game.step} steps.",
            ),
        )


class Game:
    """Two networks against each other, and all that must be kept to go on exactly where they stopped."""

    def __init__(self, recipe: GanRecipe, pictures: Pictures, device: str) -> None:
        self.recipe, self.device = recipe, device
        self.pictures = Rows(pictures)
        self.weights = self.pictures.weights
        names, self.labels = _classes(pictures)
        self.shape = Shape(
            image_size=recipe.image_size, latent=recipe.latent, width=recipe.width, labels=names
        )
        self.budget = recipe.budget()
        self.draw = torch.Generator().manual_seed(recipe.seed)
        # 1. Initialise both networks.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.generator, self.average = Generator(self.shape), Generator(self.shape)
            self.discriminator = Discriminator(self.shape)
        self.average.load_state_dict(self.generator.state_dict())
        self.average.requires_grad_(False)
        for network in (self.generator, self.average, self.discriminator):
            network.to(device).train()
        self.generator_update = _adam(self.generator)
        self.discriminator_update = _adam(self.discriminator)
        self.step, self.seconds = 0, 0.0
        self.history = History()
        still = torch.Generator().manual_seed(recipe.seed)
        self.still = torch.randn(4 * COLUMNS, recipe.latent, generator=still).to(device)
        self.still_labels = (torch.arange(4 * COLUMNS) % max(1, len(names))).to(device)

    @property
    def share(self) -> float:
        return self.budget.spent(self.step, self.seconds)

    def play(self, context: Context) -> None:
        keeper = Keeper(context, CHECKPOINT_SECONDS)
        shown = time.monotonic()
        while self.share < 1:  # 6. Repeat.
            with keeper.saving(self.save):
                if self.history.is_due(self.share):
                    context.compute(self._remember)
                keeper.compute(self._timed_step)
            total = round(self.step / self.share) if self.budget.minutes else self.budget.steps
            keeper.boundary(Progress("train", self.step, total), self.save)
            if time.monotonic() - shown > PREVIEW_SECONDS:
                context.preview(Image(pixels=grid(context.compute(self._samples), COLUMNS)))
                shown = time.monotonic()
        context.compute(self._remember)

    def _timed_step(self) -> None:
        started = time.monotonic()
        self._step()
        self.seconds += time.monotonic() - started

    def _step(self) -> None:
        rate = self.budget.rate(self.step, self.seconds)
        for update in (self.generator_update, self.discriminator_update):
            for group in update.param_groups:
                group["lr"] = rate
        real, label = self._real()  # 2. Draw real data.
        with torch.no_grad():
            fake, fake_label = self._fake()  # 3. Generate fakes.
        # 4. Discriminate: each batch by itself, since a batch of fakes gives itself away by its sameness.
        on_real = self.discriminator(augment(real, self.draw), label)
        on_fake = self.discriminator(augment(fake, self.draw), fake_label)
        loss = self._loss(on_real) + self._loss(-on_fake)
        if self.recipe.r1 and self.step % R1_EVERY == 0:
            loss = loss + R1_EVERY * self.recipe.r1 * self._roughness(real, label)
        _apply(self.discriminator_update, loss)  # 5. Update the discriminator,
        fake, fake_label = self._fake()
        self.discriminator.requires_grad_(False)
        verdict = self.discriminator(augment(fake, self.draw), fake_label)
        deceived = -verdict.mean() if self.recipe.loss == "hinge" else self._loss(verdict)
        _apply(self.generator_update, deceived)  # and the generator.
        self.discriminator.requires_grad_(True)
        self._follow()
        self.step += 1

    def _loss(self, right: Tensor) -> Tensor:
        """What a logit costs that should be high."""
        if self.recipe.loss == "hinge":
            return functional.relu(1 - right).mean()
        return functional.softplus(-right).mean()

    def _roughness(self, real: Tensor, label: Tensor) -> Tensor:
        """R1: half the squared gradient of the verdict on real pictures."""
        real = real.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(
            self.discriminator(augment(real, self.draw), label).sum(), real, create_graph=True
        )
        return slope.square().sum(dim=(1, 2, 3)).mean() / 2

    def _real(self) -> tuple[Tensor, Tensor]:
        chosen = torch.multinomial(self.weights, self.recipe.batch, replacement=True, generator=self.draw)
        pixels = self.pictures.pixels_of(chosen).to(self.device, torch.float32)
        return pixels / 127.5 - 1, self.labels[chosen].to(self.device)

    def _fake(self) -> tuple[Tensor, Tensor]:
        """New pictures by new latents, with labels as frequent as in the data."""
        latent = torch.randn(self.recipe.batch, self.recipe.latent, generator=self.draw)
        chosen = torch.multinomial(self.weights, self.recipe.batch, replacement=True, generator=self.draw)
        label = self.labels[chosen].to(self.device)
        return self.generator(latent.to(self.device), label), label

    @torch.no_grad()
    def _follow(self) -> None:
        """The average follows; a young one quickly, or it would hold on to the first random weights."""
        decay = min(self.budget.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.average.parameters()), [p.detach() for p in self.generator.parameters()], 1 - decay
        )

    @torch.no_grad()
    def _samples(self) -> Tensor:
        """What the average draws from latents that never change, float (60, 3, size, size)."""
        drawn: Tensor = self.average(self.still, self.still_labels)
        return drawn

    def _remember(self) -> None:
        row = grid(self._samples()[:COLUMNS], COLUMNS)
        self.history.add(self.share, f"step {self.step}", row)

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Write the average, with the batch statistics that its own pictures have."""
        norms = [m for m in self.average.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over all batches
        draw = torch.Generator().manual_seed(self.recipe.seed)
        for _ in range(64):
            latent = torch.randn(self.recipe.batch, self.recipe.latent, generator=draw)
            chosen = torch.multinomial(self.weights, self.recipe.batch, replacement=True, generator=draw)
            self.average(latent.to(self.device), self.labels[chosen].to(self.device))
        write_generator(self.average, folder, steps=self.step)

    def save(self, folder: Path) -> None:
        tensors = {"draw": self.draw.get_state()}
        for name, network in self._networks().items():
            tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for name, update in self._updates().items():
            for index, kept in update.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{key}": value for key, value in kept.items()}
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(tensors, folder / "game.safetensors")
        (folder / "game.json").write_text(json.dumps({"step": self.step, "seconds": self.seconds}))
        self.history.save(folder)

    def restore(self, folder: Path) -> None:
        facts = json.loads((folder / "game.json").read_text())
        self.step, self.seconds = facts["step"], facts["seconds"]
        tensors = load_file(folder / "game.safetensors")
        self.draw.set_state(tensors.pop("draw"))
        for name, network in self._networks().items():
            network.load_state_dict(_below(tensors, name))
        for name, update in self._updates().items():
            state: dict[int, dict[str, Tensor]] = {}
            for path, value in _below(tensors, name).items():
                index, _, key = path.partition(".")
                state.setdefault(int(index), {})[key] = value
            update.load_state_dict({"state": state, "param_groups": update.state_dict()["param_groups"]})
        self.history = History.load(folder)

    def _networks(self) -> dict[str, nn.Module]:
        return {
            "generator": self.generator,
            "average": self.average,
            "discriminator": self.discriminator,
        }

    def _updates(self) -> dict[str, torch.optim.Optimizer]:
        return {"for-generator": self.generator_update, "for-discriminator": self.discriminator_update}


def _classes(pictures: Pictures) -> tuple[tuple[str, ...], Tensor]:
    """The labels in order, and the number of each picture's: all have one, or none has."""
    given = [label for label in pictures.labels if label is not None]
    if not given:
        return (), torch.zeros(len(pictures), dtype=torch.int64)
    if len(given) < len(pictures):
        missing = pictures.labels.index(None) + 1
        raise InvalidInput.at(
            "/input/dataset",
            f"metadata.jsonl line {missing} has no label, and others have; give every picture one, or none",
        )
    names = tuple(sorted(set(given)))
    numbers = {name: number for number, name in enumerate(names)}
    return names, torch.tensor([numbers[label] for label in given])


def _adam(network: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), betas=(0.0, 0.99), fused=True)


def _apply(update: torch.optim.Optimizer, loss: Tensor) -> None:
    update.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    update.step()


def _below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }
