"""Tiny pictures to upload."""

from __future__ import annotations

import io
import json
import zipfile

from PIL import Image


def png(colour: tuple[int, int, int]) -> bytes:
    content = io.BytesIO()
    picture = Image.new("RGB", (16, 16), (255, 255, 255))
    picture.paste(colour, (4, 4, 12, 12))
    picture.save(content, "PNG")
    return content.getvalue()


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        lines = []
        for number in range(8):
            label, colour = (("red", (220, 20, 20)), ("blue", (20, 20, 220)))[number % 2]
            packed.writestr(f"{number}.png", png(colour))
            lines.append({"file_name": f"{number}.png", "text": "a square", "label": label})
        packed.writestr("metadata.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return content.getvalue()
