"""Trains a small text-to-image model from captioned pictures.

Four stages: an autoencoder, a tokenizer from the captions, every picture as latents, and the denoiser; where
the training goes on from a model, the first two are that model's. The result is a ``StableDiffusionPipeline``
folder in float16 safetensors, which runs like any other pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.catalog.families.diffusion import FAMILY
from shared.schema.specialise import specialise_all
from worker.engines.batching.patches import install, taking_part
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
from worker.engines.diffusion.training import networks as nets
from worker.engines.diffusion.training.base_model import Base, open_base, settled_inputs
from worker.engines.diffusion.training.losses import (
    batch_of,
    denoising_loss,
    latents_of,
    pick,
    reconstruction_loss,
)
from worker.engines.diffusion.training.networks import Net
from worker.engines.memory import memory_errors
from worker.engines.training.loop import Budget, Keeper, Loop, autocast, keep_heap
from worker.engines.training.picture_rows import Rows, grid, zip_folder
from worker.engines.training.trainer import NothingResident
from worker.inputs.datasets import Pictures

PREVIEWS = 10  #: how often a stage shows what it can do so far
PREVIEW_STEPS = 15
GUIDANCE = 3.0
#: in a checkpoint, the inputs that the model settled which the training went on from
_SETTLED = "settled.json"
#: captions that are turned into tokens between two boundaries
_CAPTIONS = 512


class DiffusionTrainer(NothingResident):
    """The engine ``train-diffusion``: it needs no files of its own."""

    def wants(self, given: Mapping[str, Any], resume: Path | None) -> PicturesWanted:
        """Raises InvalidInput for a model to go on from that was not made so."""
        named = given.get("base_model")
        settled = _kept(resume) or (settled_inputs(named["name"], Path(named["path"])) if named else {})
        known = named or (resume is not None and (resume / "tokenizer").is_dir())
        size = {**given, **settled}["size"]
        return PicturesWanted(size=size, tokenizer=None if known else nets.tokenizer_to_train(given))

    def run(self, loaded: None, work: Work, context: Context) -> Result:
        """The trained folder as a model and as ``model.zip``, and a grid of samples.

        Raises InvalidInput for a model to go on from that was not made so."""
        keep_heap()
        context.boundary(Progress("dataset", 0))
        base, settled = _gone_on_from(work.input, context.resume)
        given = {**work.input, **settled}
        with memory_errors("training; a smaller batch_size or narrower channels need less"):
            return _Training(given, settled, base, given["dataset"], context).run()


def _gone_on_from(given: Mapping[str, Any], resume: Path | None) -> tuple[Base | None, Mapping[str, Any]]:
    """The model that the training begins with, if with one, and the inputs which that settles.

    A training that has begun has all it needs in its checkpoint, whatever became of the model."""
    if (named := given.get("base_model")) is None:
        return None, {}
    if kept := _kept(resume):
        return None, kept
    base = open_base(named["name"], Path(named["path"]))
    return base, base.inputs


def _kept(resume: Path | None) -> Mapping[str, Any]:
    """The inputs that were settled before the checkpoint, where some were."""
    if resume is None or not (kept := resume / _SETTLED).is_file():
        return {}
    found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
    return found


class _Training:
    """One attempt. A checkpoint holds the finished parts, and the loop of the one in progress."""

    def __init__(
        self,
        given: Mapping[str, Any],
        settled: Mapping[str, Any],
        base: Base | None,
        pictures: Pictures,
        context: Context,
    ) -> None:
        self._given, self._settled, self._base = given, settled, base
        self._pictures, self._context = pictures, context
        self._rows = Rows(pictures)
        self._device = context.device.name
        self._keeper = Keeper(context)

    def run(self) -> Result:
        vae = self._autoencoder()
        tokens = self._tokenizer()
        scheduler = self._scheduler()
        unet, text = self._denoiser(vae, tokens, scheduler, self._latents(vae))
        return self._result(nets.pipeline(vae, text, tokens, unet, scheduler))

    def _left(self, part: str) -> Path | None:
        """What an earlier attempt left of a part."""
        folder = self._context.resume
        return folder / part if folder is not None and (folder / part).is_dir() else None

    # 1: pixels ↔ latents

    def _autoencoder(self) -> Net:
        given = self._given
        if finished := self._left("vae"):
            return nets.saved_autoencoder(finished).to(self._device).eval()
        if self._base is not None:
            return self._base.vae.to(self._device).eval()
        torch.manual_seed(given["seed"])
        vae = nets.autoencoder(given).to(self._device, memory_format=torch.channels_last)
        budget = Budget(
            steps=given["autoencoder_steps"],
            minutes=given["autoencoder_minutes"],
            learning_rate=given["autoencoder_learning_rate"],
            warmup=50,
            hold=0.3,
            weight_decay=1e-3,
        )
        loop = Loop({"vae": vae}, budget, given["seed"])
        if begun := self._left("autoencoder"):
            loop.restore(begun)
        shown = _Shown(loop)

        def loss(generator: torch.Generator) -> Tensor:
            picked = pick(self._rows.weights, given["autoencoder_batch_size"], generator)
            return reconstruction_loss(vae, self._mirrored(picked, generator), generator)

        def after() -> None:
            if shown.due():
                with loop.averaged():
                    self._context.preview(self._context.compute(partial(self._reconstructions, vae)))

        loop.run(loss, "autoencoder", self._keeper, lambda folder: loop.save(folder / "autoencoder"), after)
        loop.adopt_average()
        return vae.eval()

    def _mirrored(self, picked: Tensor, generator: torch.Generator) -> Tensor:
        """float32 (n, 3, size, size) in [-1, 1], half of them mirrored: more edges to learn."""
        pixels = self._rows.pixels_of(picked).float().div_(127.5).sub_(1)
        mirrored = torch.rand(len(picked), generator=generator) < 0.5
        pixels[mirrored] = pixels[mirrored].flip(-1)
        return pixels.to(self._device, memory_format=torch.channels_last)

    @torch.no_grad()
    def _reconstructions(self, vae: Net) -> Image:
        """Pictures, each beside what comes back from its latents."""
        pixels = self._rows.pixels_of(self._spread(48)).to(self._device).float() / 127.5 - 1
        back = vae.decode(vae.encode(pixels).latents).sample
        return Image(pixels=grid(torch.stack((pixels, back), 1).flatten(0, 1), 12))

    def _spread(self, count: int) -> Tensor:
        """At most ``count`` rows, evenly over the dataset."""
        return torch.linspace(0, len(self._pictures) - 1, min(count, len(self._pictures))).long()

    # 2: captions → tokens

    def _tokenizer(self) -> Net:
        if finished := self._left("tokenizer"):
            return nets.saved_tokenizer(finished)
        if self._base is not None:
            return self._base.tokens
        self._context.boundary(Progress("tokenizer", 0))
        assert self._pictures.tokenizer is not None  # as ``wants`` said
        return nets.trained_tokenizer(self._pictures.tokenizer, self._given)

    def _ids(self, tokens: Net) -> list[Tensor]:
        """The token ids of each row's captions."""
        captions = [caption for row in self._pictures.captions for caption in row]
        found = []
        for start in range(0, len(captions), _CAPTIONS):
            if start:
                self._context.boundary(Progress("captions", start, len(captions)))
            found.append(nets.token_ids(tokens, captions[start : start + _CAPTIONS]))
        return list(torch.split(torch.cat(found), [len(row) for row in self._pictures.captions]))

    # 3: every picture as latents, once

    def _latents(self, vae: Net) -> Tensor:
        chunks = torch.split(self._rows.pixels, 128)
        found = []
        for index, chunk in enumerate(chunks):
            self._context.boundary(Progress("latents", index, len(chunks)))
            encode = partial(latents_of, vae, chunk.to(self._device))
            found.append(self._context.compute(encode).cpu())
        return torch.cat(found)

    # 4: noise and text → latents

    def _scheduler(self) -> Net:
        if kept := self._left("scheduler"):
            return nets.saved_scheduler(kept)
        return nets.scheduler() if self._base is None else self._base.scheduler

    def _beginning(self, tokens: Net) -> tuple[Net, Net]:
        """The denoiser and the text encoder as they are before the first step."""
        if self._base is not None:
            unet, text = self._base.unet, self._base.text
        else:
            torch.manual_seed(self._given["seed"])
            unet, text = nets.denoiser(self._given), nets.text_encoder(self._given, tokens)
        return unet.to(self._device, memory_format=torch.channels_last), text.to(self._device)

    def _denoiser(self, vae: Net, tokens: Net, scheduler: Net, latents: Tensor) -> tuple[Net, Net]:
        given = self._given
        unet, text = self._beginning(tokens)
        budget = Budget(
            steps=given["steps"],
            minutes=given["minutes"],
            learning_rate=given["learning_rate"],
            warmup=given["warmup"],
            decay=given["ema_decay"],
        )
        loop = Loop({"unet": unet, "text": text}, budget, given["seed"])
        if begun := self._left("denoiser"):
            loop.restore(begun)
        alphas = scheduler.alphas_cumprod.to(self._device)
        ids, places = self._ids(tokens), self._rows.places
        empty = nets.token_ids(tokens, [""])[0]
        shown = _Shown(loop)

        def loss(generator: torch.Generator) -> Tensor:
            picked = pick(self._rows.weights, given["batch_size"], generator)
            clean, captions = batch_of(picked, places, latents, ids, empty, generator)
            clean, captions = clean.to(self._device), captions.to(self._device)
            with autocast(self._device):
                return denoising_loss(unet, text, clean, captions, alphas, generator)

        def after() -> None:
            if shown.due():
                with loop.averaged():
                    self._context.preview(self._samples(nets.pipeline(vae, text, tokens, unet, scheduler)))

        def write(folder: Path) -> None:
            vae.save_pretrained(folder / "vae")
            tokens.save_pretrained(folder / "tokenizer")
            scheduler.save_pretrained(folder / "scheduler")
            if self._settled:
                (folder / _SETTLED).write_text(json.dumps(self._settled), "utf-8")
            loop.save(folder / "denoiser")

        if loop.step == 0:
            self._context.checkpoint(write)  # the autoencoder is done: never again
        loop.run(loss, "denoiser", self._keeper, write, after)
        loop.adopt_average()
        return unet.eval(), text.eval()

    def _samples(self, pipe: Any) -> Image:
        """The job's prompts, or captions spread over the dataset, as pictures."""
        rows = self._spread(24).tolist()
        prompts = self._given["prompts"] or [self._pictures.captions[row][0] for row in rows]

        def between(_pipe: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
            self._context.boundary(Progress("samples", step + 1, PREVIEW_STEPS))
            return values

        install(pipe)
        with taking_part(self._context):
            images = pipe(
                prompts,
                num_inference_steps=PREVIEW_STEPS,
                guidance_scale=GUIDANCE,
                generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
                output_type="pt",
                callback_on_step_end=between,
            ).images
        return Image(pixels=grid(images * 2 - 1, 12))

    # the end: a folder that any diffusers can load

    def _result(self, made: Net) -> Result:
        samples = self._samples(made)
        folder = self._context.scratch / "model"
        for part in (made.vae, made.unet, made.text_encoder):
            part.half()
        made.save_pretrained(folder)
        archive = zip_folder(folder, self._context.scratch / "model.zip")
        (task, schema), *others = _input_schemas(self._given).items()
        return Result(
            outputs=(samples, File(path=archive, media_type="application/zip")),
            model=TrainedModel(
                folder=folder,
                task=task,
                engine="diffusion",
                input_schema=schema,
                also=dict(others),
                description=self._description(),
            ),
        )

    def _description(self) -> str:
        named = self._given.get("base_model")
        begun = f"{named['name']}, trained further" if named else "Trained"
        return f"{begun} on {len(self._pictures)} captioned pictures."


class _Shown:
    """Whether a stage has come far enough since its last preview for another."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._seen = int(loop.share * PREVIEWS)

    def due(self) -> bool:
        now = int(self._loop.share * PREVIEWS)
        moved, self._seen = now > self._seen, now
        return moved


def _input_schemas(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the trained model takes for each of its tasks, its own first: pictures from its own size to twice
    that."""
    size = given["size"]
    # the latents are halved once between each two levels
    step = nets.DOWNSCALE * 2 ** (len(given["channels"]) - 1)
    side = {"minimum": size, "maximum": 2 * size, "multipleOf": step, "default": size}
    changes = {
        "width": side,
        "height": side,
        "steps": {"default": 20},
        "guidance_scale": {"default": GUIDANCE},
        # one layer at least is needed
        "clip_skip": {"maximum": given["text_layers"] - 1},
    }
    return specialise_all(FAMILY.input_schemas("text-to-image"), changes)
