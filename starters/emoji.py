"""The pictures of starter-image: Noto emoji at 64×64 on white, with their CLDR names as captions.

Pictures come from Debian's ``fonts-noto-color-emoji`` (SIL Open Font License 1.1), names and keywords from
``unicode-cldr-core`` (Unicode license). Pictures of one hue are drawn in other hues too, so that colour
words are learned; some combinations of colour and thing are held out of every caption, so that what the
model makes of words it never saw together can be measured.
"""

from __future__ import annotations

import io
import json
import math
import random
import re
import unicodedata
import xml.etree.ElementTree as ET
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
CLDR = Path("/usr/share/unicode/cldr/common")
SIZE = 64
#: hue in degrees of each colour word
HUES = {"red": 0, "orange": 28, "yellow": 54, "green": 120, "blue": 215, "purple": 275, "pink": 325}
#: how saturated and bright (0 to 255) half of a recoloured thing is at the least: a dark yellow is an olive
MEDIAN_SATURATION = 170
MEDIAN_VALUE = {
    "red": 190,
    "orange": 225,
    "yellow": 235,
    "green": 130,
    "blue": 150,
    "purple": 150,
    "pink": 215,
}
#: how often a recoloured picture is drawn, by the angle in degrees from the thing's own hue: what the model
#: never saw it makes like what it saw most, so that the colours next to a thing's own are told apart last
EMPHASIS = ((45, 5.0), (90, 2.0), (180, 1.0))
COLOURS = frozenset(HUES) | {"brown", "white", "black", "gray"}
#: combinations that are always held out: things everybody knows in one colour
SURPRISES = (
    ("blue", "rocket"),
    ("green", "robot"),
    ("blue", "fire"),
    ("purple", "banana"),
    ("pink", "octopus"),
    ("blue", "strawberry"),
    ("green", "pig face"),
    ("purple", "frog"),
    ("red", "cactus"),
    ("blue", "lion"),
    ("pink", "pizza"),
    ("green", "crab"),
    ("purple", "tomato"),
    ("blue", "carrot"),
    ("orange", "whale"),
    ("red", "broccoli"),
)

#: the names of things that a person can tell at 64 pixels; flags, letters, arrows and near twins are left out
CHOSEN = Path(__file__).with_name("emoji.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """``pixels`` uint8 (64, 64, 3); ``colour`` is None for the emoji itself, else the hue it was drawn in."""

    name: str
    #: the thing without colour words; what the colours of a thing have in common
    noun: str
    colour: str | None
    pixels: NDArray[np.uint8]
    captions: tuple[str, ...]
    held: bool = False


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", text.lower()))


def names_and_keywords() -> tuple[dict[str, str], dict[str, list[str]]]:
    """CLDR's English names and keywords by character."""
    names: dict[str, str] = {}
    keywords: dict[str, list[str]] = {}
    for file in ("annotations/en.xml", "annotationsDerived/en.xml"):
        for entry in ET.parse(CLDR / file).getroot().iter("annotation"):
            character, text = str(entry.get("cp")), _plain(entry.text or "")
            if entry.get("type") == "tts":
                names[character] = text
            else:
                keywords[character] = [word.strip() for word in text.split("|")]
    return names, keywords


def _plain(text: str) -> str:
    """Lower case ASCII without quotation marks: piñata → pinata, man’s → mans."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"\s+", " ", re.sub(r"[^a-z0-9| -]", "", ascii_text.lower())).strip()


class Pen:
    """Draws one character of the font in colour."""

    def __init__(self) -> None:
        self._font = ImageFont.truetype(str(FONT), 109)  # the only size of its bitmaps

    def draw(self, character: str) -> NDArray[np.uint8] | None:
        """uint8 (64, 64, 3) on white; None where the font has nothing for it."""
        left, top, right, bottom = self._font.getbbox(character)
        width, height = int(right - left), int(bottom - top)
        if width <= 0 or height <= 0 or width > 140:
            return None
        sheet = Image.new("RGBA", (144, 144), (255, 255, 255, 0))
        ImageDraw.Draw(sheet).text(
            ((144 - width) // 2 - left, (144 - height) // 2 - top),
            character,
            font=self._font,
            embedded_color=True,
        )
        paper = Image.new("RGBA", sheet.size, "white")
        paper.alpha_composite(sheet)
        pixels = np.asarray(paper.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS))
        return pixels if (pixels < 245).any(-1).sum() > 60 else None


def dominant_hue(pixels: NDArray[np.uint8]) -> int | None:
    """The hue (0 to 255) that nearly all of the picture's colour has; None where there is no such hue."""
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV")).astype(np.float64)
    weight = (hsv[..., 1] > 70) * (hsv[..., 2] > 60) * hsv[..., 1] / 255
    ink = (pixels < 245).any(-1).sum()
    if (weight > 0).sum() < max(120, 0.22 * ink):
        return None
    histogram = np.bincount(hsv[..., 0].astype(np.int64).ravel(), weight.ravel(), 256)
    offsets = np.arange(-16, 17)
    near = np.stack([histogram.take(offsets + i, mode="wrap") for i in range(256)])
    best = int(near.sum(1).argmax())
    if near[best].sum() <= 0.7 * histogram.sum():
        return None
    # Many windows hold a narrow peak whole, and the first of them is off its middle by half a window.
    return round(best + float(near[best] @ offsets / near[best].sum())) % 256


def recolour(pixels: NDArray[np.uint8], hue: int, colour: str) -> NDArray[np.uint8]:
    """Turn every hue by what brings ``hue`` (0 to 255) to the colour.

    Pale things become as strong and dark ones as bright as the colour wants to be called by its name."""
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV")).astype(np.float64)
    coloured = (hsv[..., 1] > 70) & (hsv[..., 2] > 60)
    least = (1.0, MEDIAN_SATURATION / 255, MEDIAN_VALUE[colour] / 255)
    for channel in (1, 2):
        median = float(np.median(hsv[..., channel][coloured])) / 255
        hsv[..., channel][coloured] *= max(1.0, least[channel] / median)
    hsv[..., 0] = (hsv[..., 0] + round(HUES[colour] * 256 / 360) - hue) % 256
    return np.asarray(Image.fromarray(hsv.clip(0, 255).astype(np.uint8), "HSV").convert("RGB"))


def colour_of(pixels: NDArray[np.uint8]) -> str | None:
    """The colour word nearest to the mean hue, weighted by saturation; None for a picture without colour."""
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV")).astype(np.float64)
    weight = (hsv[..., 1] > 70) * (hsv[..., 2] > 60) * hsv[..., 1]
    if weight.sum() == 0:
        return None
    angle = hsv[..., 0] / 256 * 2 * np.pi
    hue = math.degrees(math.atan2((np.sin(angle) * weight).sum(), (np.cos(angle) * weight).sum())) % 360
    return _nearest(hue)


def own_colour(hue: int) -> str | None:
    """The colour word for a hue (0 to 255), where one fits well."""
    nearest = _nearest(_degrees(hue))
    return nearest if _angle(HUES[nearest], _degrees(hue)) < _degrees(9) else None


def _degrees(hue: int) -> float:
    """Of a hue that is 0 to 255."""
    return hue * 360 / 256


def _angle(a: float, b: float) -> float:
    """Between two hues, all three in degrees."""
    return abs((a - b + 180) % 360 - 180)


def _nearest(hue: float) -> str:
    """The colour word for a hue in degrees."""
    return min(HUES, key=lambda colour: _angle(HUES[colour], hue))


def article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def coloured_captions(colour: str, noun: str) -> list[str]:
    """The same words in free order."""
    return [
        f"{colour} {noun}",
        f"{colour} {noun}",
        article(f"{colour} {noun}"),
        f"{article(noun)} that is {colour}",
        f"{noun}, {colour}",
        f"{colour}, {noun}",
        f"{noun} in {colour}",
    ]


def colour_captions(colour: str) -> list[str]:
    """The colour alone: it is the same one, whatever has it."""
    return [colour, f"something {colour}", article(f"{colour} thing")]


def plain_captions(name: str, keywords: Sequence[str], pick: random.Random) -> list[str]:
    captions = [name] * 4 + [article(name), f"the {name}", f"an emoji of {article(name)}"]
    tags = [word for word in keywords if word != name and not words(word) & COLOURS]
    for tag in pick.sample(tags, min(3, len(tags))):
        captions.append(pick.choice([f"{name}, {tag}", f"{tag}, {name}", f"{name} {tag}"]))
    if len(tags) >= 2:
        captions.append(" ".join(pick.sample(tags, 2)))
    return captions


def draw_all(*, share_held: float = 0.05, seed: int = 0) -> list[Picture]:
    """Every picture, the held-out combinations included (``held``): those never go into an archive."""
    pick = random.Random(seed)
    names, keywords = names_and_keywords()
    things = _things(names)
    taken = {name for name, _ in things.values()}
    hues = {c: dominant_hue(pixels) for c, (_, pixels) in things.items()}
    pictures: list[Picture] = []
    for character, (name, pixels) in things.items():
        hue = hues[character]
        noun = " ".join(word for word in name.split() if word not in COLOURS)
        captions = plain_captions(name, keywords.get(character, []), pick)
        own = own_colour(hue) if hue is not None else None
        if words(name) & COLOURS and len(words(name)) > 1:
            first = next(word for word in name.split() if word in COLOURS)
            captions += coloured_captions(first, noun)
        elif own is not None:
            captions += coloured_captions(own, noun)[1:5]
        pictures.append(Picture(name=name, noun=noun, colour=None, pixels=pixels, captions=tuple(captions)))
        if hue is None or not noun:
            continue
        for colour in HUES:
            draw = pick.random()
            drawn = recolour(pixels, hue, colour)
            # What does not look like its colour would teach the wrong word.
            if f"{colour} {noun}" in taken or colour == own or colour_of(drawn) != colour:
                continue
            pictures.append(
                Picture(
                    name=f"{colour} {noun}",
                    noun=noun,
                    colour=colour,
                    pixels=drawn,
                    captions=(*coloured_captions(colour, noun), *colour_captions(colour)),
                    held=(colour, noun) in SURPRISES or draw < share_held,
                )
            )
            taken.add(f"{colour} {noun}")
    return _without_held_words(pictures)


def _things(names: Mapping[str, str]) -> dict[str, tuple[str, NDArray[np.uint8]]]:
    """Name and pixels by character, in the order of the list."""
    characters = {name: character for character, name in names.items() if len(character) == 1}
    pen = Pen()
    things: dict[str, tuple[str, NDArray[np.uint8]]] = {}
    for name in CHOSEN.read_text("utf-8").split("\n"):
        character = characters.get(name)
        pixels = pen.draw(character) if character else None
        if character and pixels is not None:
            things[character] = (name, pixels)
    return things


def _without_held_words(pictures: Sequence[Picture]) -> list[Picture]:
    """Drop each caption that has the words of a held-out combination, in whatever order."""
    held = [words(p.name) for p in pictures if p.held]
    kept = []
    for p in pictures:
        captions = tuple(c for c in p.captions if not any(h <= words(c) for h in held))
        if p.held or captions:
            kept.append(
                Picture(
                    name=p.name,
                    noun=p.noun,
                    colour=p.colour,
                    pixels=p.pixels,
                    captions=p.captions if p.held else captions,
                    held=p.held,
                )
            )
    return kept


def write_archive(pictures: Sequence[Picture], target: Path, share_recoloured: float = 0.5) -> None:
    """A training archive in Hugging Face's imagefolder layout, without anything that is held out.

    Recoloured pictures are many; ``weight`` lets them be ``share_recoloured`` of what is drawn."""
    shown = [p for p in pictures if not p.held]
    weights = _weights(shown, share_recoloured)
    lines = []
    with zipfile.ZipFile(target, "w") as archive:
        for index, (picture, weight) in enumerate(zip(shown, weights, strict=True)):
            name = f"images/{index:05d}.png"
            content = io.BytesIO()
            Image.fromarray(picture.pixels).save(content, "PNG")
            _add(archive, name, content.getvalue())
            lines.append({"file_name": name, "text": list(picture.captions), "weight": weight})
        metadata = "".join(json.dumps(line) + "\n" for line in lines)
        _add(archive, "metadata.jsonl", metadata.encode())


def _weights(pictures: Sequence[Picture], share_recoloured: float) -> list[float]:
    """1 for a picture as it is, and for a recoloured one what its hue makes of the share of them all."""
    own: dict[str, list[float]] = defaultdict(list)
    for p in pictures:
        if p.colour is None and (hue := dominant_hue(p.pixels)) is not None:
            own[p.noun].append(_degrees(hue))
    often = [None if p.colour is None else _emphasis(HUES[p.colour], own[p.noun]) for p in pictures]
    plain, recoloured = often.count(None), sum(filter(None, often))
    scale = share_recoloured / (1 - share_recoloured) * plain / max(1.0, recoloured)
    return [1.0 if each is None else round(scale * each, 4) for each in often]


def _emphasis(hue: float, own: Sequence[float]) -> float:
    """For a picture in this hue of a thing that has these hues anyway, in degrees."""
    nearest = min((_angle(hue, each) for each in own), default=180.0)
    return next(often for most, often in EMPHASIS if nearest <= most)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Without the clock, so that the same pictures are the same archive."""
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
