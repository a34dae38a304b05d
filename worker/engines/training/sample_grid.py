"""A strip of pictures: what a generator drew from the same latents at moments of its training."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

#: shares of the budget at which a row is kept: most changes early
MOMENTS = (0.0, 0.01, 0.03, 0.07, 0.15, 0.3, 0.6)
MARGIN = 96


@dataclass(slots=True)
class History:
    """Rows of samples, oldest first: the share of the budget, a caption, pixels uint8 (height, width, 3)."""

    rows: list[tuple[float, str, NDArray[np.uint8]]] = field(default_factory=list)

    def is_due(self, share: float) -> bool:
        """Whether a moment has come since the last row."""
        latest = self.rows[-1][0] if self.rows else -1.0
        return any(latest < moment <= share for moment in MOMENTS)

    def add(self, share: float, caption: str, row: NDArray[np.uint8]) -> None:
        self.rows.append((share, caption, row))

    def draw(self, target: Path) -> Path:
        """Write all rows below each other as a PNG, captions in the left margin."""
        height, width, _ = self.rows[0][2].shape
        sheet = Image.new("RGB", (MARGIN + width, height * len(self.rows)), "white")
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
        for index, (_, caption, row) in enumerate(self.rows):
            sheet.paste(Image.fromarray(row), (MARGIN, index * height))
            pen.text((8, (index + 0.5) * height), caption, "black", font, anchor="lm")
        sheet.save(target)
        return target

    def save(self, folder: Path) -> None:
        (folder / "history.json").write_text(json.dumps([[share, text] for share, text, _ in self.rows]))
        np.savez_compressed(folder / "history.npz", *(row for _, _, row in self.rows))

    @classmethod
    def load(cls, folder: Path) -> Self:
        facts = json.loads((folder / "history.json").read_text())
        with np.load(folder / "history.npz", allow_pickle=False) as kept:
            return cls([(share, text, kept[f"arr_{i}"]) for i, (share, text) in enumerate(facts)])
