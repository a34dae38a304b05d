"""Measures starter-image: ``python -m starters.evaluate_image [FOLDER]``; ``--help`` says what it writes.

* ``seen``: for captions of the training set, how often the training picture nearest to what was made, of all
  emoji, is the caption's own.
* ``held_out``: for colours and things that no caption had together, how often the colour is right, and how
  often the shape is: whether the nearest of all pictures recoloured that way is this thing.
* ``autoencoder``: the peak signal-to-noise ratio in dB of the emoji through the autoencoder.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from shared.chunks import in_chunks
from starters.emoji import Picture, colour_of, draw_all

FOLDER = Path(__file__).with_name("image")
SEEN = 150
HELD_OUT = 100
STEPS = 20
GUIDANCE = 3.0
BATCH = 50
#: what the model card shows: things as they are taught, others, and what no caption had together
GRID = """
red apple, grinning face, cat face, rocket, pizza, dog face, fire, red heart, rainbow, cactus, soccer ball,
hot beverage, green apple, blue heart, hamburger, octopus, castle, sunflower, bicycle, guitar, ghost, robot,
snowman, banana, blue rocket, purple apple, a cat face that is green, octopus pink, blue fire, purple banana,
yellow dog face, green robot, blue strawberry, pink pizza, blue lion, green crab
"""

Pixels = NDArray[np.uint8]
_diffusers: Any = diffusers  # loads its classes lazily and leaves them without types


def evaluate(folder: Path, seed: int = 0) -> tuple[dict[str, Any], list[tuple[Picture, Pixels]]]:
    """The numbers, and every picture that was made beside the one that was asked for."""
    pipe = load(folder)
    pictures = draw_all()
    pick = random.Random(seed)
    emoji = [p for p in pictures if p.colour is None]
    seen = pick.sample(emoji, min(SEEN, len(emoji)))
    held = [p for p in pictures if p.held]
    held = pick.sample(held, min(HELD_OUT, len(held)))
    made = generate(pipe, [p.captions[0] for p in (*seen, *held)])
    pairs = list(zip((*seen, *held), made, strict=True))
    numbers = {
        "seen": _seen(pairs[: len(seen)], emoji),
        "held_out": _held_out(pairs[len(seen) :], pictures),
        "autoencoder": _autoencoder(pipe.vae, np.stack([p.pixels for p in emoji])),
    }
    return numbers, pairs


def load(folder: Path) -> Any:
    """The pipeline in float32, which says nothing while it draws."""
    pipe = _diffusers.StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: Any, prompts: Sequence[str]) -> list[Pixels]:
    """One picture for each prompt, seeds 0, 1, 2 and so on."""
    made: list[Pixels] = []
    for some in in_chunks(prompts, BATCH):
        seeds = [torch.Generator().manual_seed(len(made) + i) for i in range(len(some))]
        images = pipe(
            some, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=seeds, output_type="np"
        ).images
        made += list((images * 255).round().astype(np.uint8))
    return made


def _seen(pairs: Sequence[tuple[Picture, Pixels]], emoji: Sequence[Picture]) -> dict[str, Any]:
    ranks = []
    for wanted, pixels in pairs:
        order = np.argsort([_distance(pixels, other.pixels) for other in emoji])
        ranks.append([emoji[i].name for i in order].index(wanted.name))
    return {
        "captions": len(ranks),
        "of": len(emoji),
        "top_1": sum(rank == 0 for rank in ranks),
        "top_5": sum(rank < 5 for rank in ranks),
    }


def _held_out(pairs: Sequence[tuple[Picture, Pixels]], pictures: Sequence[Picture]) -> dict[str, Any]:
    colour = shape = 0
    for wanted, pixels in pairs:
        colour += colour_of(pixels) == wanted.colour
        same = [p for p in pictures if p.colour == wanted.colour]
        shape += min(same, key=lambda p: _distance(pixels, p.pixels)).noun == wanted.noun
    return {"combinations": len(pairs), "colour": colour, "shape": shape}


def _distance(a: Pixels, b: Pixels) -> float:
    """Euclidean, between the means of 4×4 squares."""
    return float(np.linalg.norm(_coarse(a) - _coarse(b)))


def _coarse(pixels: Pixels) -> NDArray[np.float64]:
    height, width, _ = pixels.shape
    means: NDArray[np.float64] = pixels.reshape(height // 4, 4, width // 4, 4, 3).mean((1, 3)) / 255
    return means


@torch.no_grad()
def _autoencoder(vae: Any, pixels: Pixels) -> dict[str, float]:
    """``mean``: over the pictures' own ratios; ``pooled``: of the mean error of them all."""
    errors = []
    for part in torch.from_numpy(pixels).split(64):  # type: ignore[no-untyped-call]
        images = part.permute(0, 3, 1, 2).float() / 127.5 - 1
        back = vae.decode(vae.encode(images).latents).sample.clamp(-1, 1)
        errors.append((back - images).square().mean((1, 2, 3)))
    error = torch.cat(errors).double()
    return {
        "mean_psnr": round(float((10 * torch.log10(4 / error)).mean()), 2),
        "pooled_psnr": round(10 * math.log10(4 / float(error.mean())), 2),
    }


def sheet(pictures: Sequence[Pixels], columns: int) -> Image.Image:
    height, width, _ = pictures[0].shape
    rows = -(-len(pictures) // columns)
    whole = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, pixels in enumerate(pictures):
        top, left = i // columns * height, i % columns * width
        whole[top : top + height, left : left + width] = pixels
    return Image.fromarray(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a text-to-image model trained on the emoji.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--pictures", type=Path, help="write wanted and made pictures, in pairs, to this PNG")
    parser.add_argument("--grid", type=Path, help="write the model card's pictures to this PNG, nothing else")
    given = parser.parse_args()
    if given.grid:
        sheet(generate(load(given.folder), [each.strip() for each in GRID.split(",")]), 12).save(given.grid)
        return
    numbers, pairs = evaluate(given.folder)
    text = json.dumps(numbers, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    if given.pictures:
        sheet([pixels for wanted, made in pairs for pixels in (wanted.pixels, made)], 20).save(given.pictures)


if __name__ == "__main__":
    main()
