"""Weights are safetensors. Pickled ones can run any code when they are loaded, so they never are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

from shared.errors import ModelUnavailable

PICKLED = frozenset({".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth"})

#: how a zip begins, which PyTorch puts its pickles into, and what tells the protocol of a bare pickle
_ZIP, _PROTOCOLS = b"PK\x03\x04", tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
#: a safetensors file is the length of its header in 8 bytes, then JSON
_HEAD = 9


def check_weights(folder: Path, model_id: str) -> None:
    """Raises ModelUnavailable when a part of the model has no weights but pickled ones, or none at all."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if (example := only_pickled(files)) is not None:
        raise refused(model_id, str(example))
    safe = [path for path in files if path.suffix == ".safetensors"]
    if not safe:
        raise ModelUnavailable(
            f"model {model_id}: no .safetensors below {folder}; only such weights are loaded", retryable=False
        )
    for path in safe:
        if _is_pickled(path):
            raise refused(model_id, f"{path}, whatever its name says,")


def only_pickled(files: Iterable[PurePath]) -> PurePath | None:
    """A pickled file whose folder has no safetensors, the first of them; None where there is none."""
    files = list(files)
    safe = {path.parent for path in files if path.suffix == ".safetensors"}
    return next((path for path in files if path.suffix in PICKLED and path.parent not in safe), None)


def refused(model_id: str, example: str) -> ModelUnavailable:
    """What to do about a model whose weights are pickled."""
    return ModelUnavailable(
        f"model {model_id}: {example} is pickled, which can run any code when it is loaded; convert it to "
        ".safetensors (save_pretrained of its library does), or take a revision that has them",
        retryable=False,
    )


def _is_pickled(path: Path) -> bool:
    """By its first bytes. What looks like neither is for the loader, which reads safetensors alone."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return head.startswith(_ZIP) or (head.startswith(_PROTOCOLS) and not head.endswith(b"{"))
