"""The pictures of starter-gan: faces, hearts, flowers, fruit and animals of Noto emoji, 64×64, with a label.

A few dozen drawings become thousands of pictures: each is shifted, turned, scaled and mirrored a little, and
where a kind of thing comes in every colour, drawn in another hue. What a generator must find out is what all
faces have in common, and that their colour is not part of it.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from starters.emoji import Pen, dominant_hue

#: characters of each label
SUBJECTS: Mapping[str, str] = {
    "face": "😀😃😄😁😆😅🙂😉😊😇😍🤩😘😗😚😙😋😛😜🤪😝😐😑😶😏😒🙄😬😌😔😪😴"
    "😎🤓😕😟🙁😮😯😲😳🥺😦😧😢😭😖😣😞😓😩😫😠",
    "heart": "❤🧡💛💚💙💜💖💗",
    "flower": "🌸🌼🌻🌺🏵🌷🌹",
    "fruit": "🍎🍏🍊🍋🍐🍑🍅🥝🍓🍒🥥🍇",
    "animal": "🐶🐱🐭🐹🐰🦊🐻🐼🐨🐯🐮🐷🐸🐵",
}
#: how many pictures of a label, and which share of them is drawn in a hue of its own
COUNTS = {"face": 1600, "heart": 500, "flower": 700, "fruit": 800, "animal": 900}
RECOLOURED = {"face": 0.35, "heart": 0.9, "flower": 0.6, "fruit": 0.0, "animal": 0.0}


@dataclass(frozen=True, slots=True)
class Sample:
    """``pixels`` uint8 (64, 64, 3) on white."""

    label: str
    pixels: NDArray[np.uint8]


def samples(*, seed: int = 0) -> Iterator[Sample]:
    """All pictures, in a fixed order."""
    pen, chance = Pen(), random.Random(seed)
    for label, characters in SUBJECTS.items():
        drawn = [pixels for c in characters if (pixels := pen.draw(c)) is not None]
        for index in range(COUNTS[label]):
            pixels = drawn[index % len(drawn)]
            if chance.random() < RECOLOURED[label] and dominant_hue(pixels) is not None:
                pixels = _turn_hue(pixels, chance.randrange(256))
            yield Sample(label, _move(pixels, chance))


def write_archive(target: Path, *, seed: int = 0) -> int:
    """Write the training archive (imagefolder) and return how many pictures it holds."""
    lines = []
    with zipfile.ZipFile(target, "w") as archive:
        for index, sample in enumerate(samples(seed=seed)):
            name = f"images/{index:05d}.png"
            content = io.BytesIO()
            Image.fromarray(sample.pixels).save(content, "PNG")
            archive.writestr(name, content.getvalue())
            lines.append({"file_name": name, "text": sample.label, "label": sample.label})
        archive.writestr("metadata.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return len(lines)


def _turn_hue(pixels: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV")).copy()
    hsv[..., 0] += np.uint8(by)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def _move(pixels: NDArray[np.uint8], chance: random.Random) -> NDArray[np.uint8]:
    """Scale by ±4 %, turn by ±5 degrees, shift by ±1.5 pixels, mirror every second one."""
    image = Image.fromarray(pixels)
    if chance.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    size = image.width
    scale = chance.uniform(0.96, 1.04)
    angle = np.deg2rad(chance.uniform(-5, 5))
    across, down = chance.uniform(-1.5, 1.5), chance.uniform(-1.5, 1.5)
    a, b = float(np.cos(angle) / scale), float(np.sin(angle) / scale)
    middle = (size - 1) / 2
    x, y = middle + across, middle + down
    turned = image.transform(
        image.size,
        Image.Transform.AFFINE,
        (a, b, middle - a * x - b * y, -b, a, middle + b * x - a * y),
        Image.Resampling.BICUBIC,
        fillcolor="white",
    )
    return np.asarray(turned)
