"""Pictures of a training for people, and the files that it leaves."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.inputs.datasets import Pictures


class Rows:
    """The pictures of a dataset's rows as tensors: several rows may name one picture."""

    def __init__(self, pictures: Pictures) -> None:
        #: uint8 (pictures, 3, size, size)
        self.pixels = torch.from_numpy(pictures.pixels)
        #: int64 (rows,): which picture
        self.places = torch.from_numpy(pictures.places)
        #: float64 (rows,), positive
        self.weights = torch.from_numpy(pictures.weights)

    def pixels_of(self, rows: Tensor) -> Tensor:
        """uint8 (rows, 3, size, size)"""
        return self.pixels[self.places[rows]]


def grid(pixels: Tensor, columns: int) -> NDArray[np.uint8]:
    """float (n, 3, h, w) in [-1, 1] → uint8 (rows · h, columns · w, 3), white where pictures are missing."""
    count, _, height, width = pixels.shape
    rows = -(-count // columns)
    sheet = torch.ones(rows * columns, 3, height, width)
    sheet[:count] = pixels.detach().float().cpu().clamp(-1, 1)
    sheet = sheet.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    whole = sheet.reshape(rows * height, columns * width, 3)
    return np.asarray(((whole + 1) * 127.5).round().to(torch.uint8))


def zip_folder(folder: Path, target: Path) -> Path:
    """Every file below ``folder``, named relative to it; weights do not shrink, so they are only stored."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(folder).as_posix())
    return target
