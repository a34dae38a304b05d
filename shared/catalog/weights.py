"""Weights are safetensors. Pickled ones can run any code when they are loaded, so they never are."""

from __future__ import annotations

from pathlib import Path

from shared.errors import ModelUnavailable

PICKLED = frozenset({".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth"})


def check_weights(folder: Path, model_id: str) -> None:
    """Raises ModelUnavailable when a part of the model has no weights but pickled ones, or none at all."""
    safe: set[Path] = set()
    pickled: dict[Path, Path] = {}
    for path in folder.rglob("*"):
        if path.suffix == ".safetensors":
            safe.add(path.parent)
        elif path.suffix in PICKLED:
            pickled.setdefault(path.parent, path)
    for part, example in sorted(pickled.items()):
        if part not in safe:
            raise ModelUnavailable(
                f"model {model_id}: {example} is pickled, which can run any code when it is loaded; "
                "convert it to .safetensors (save_pretrained of its library does), or take a revision that "
                "has them",
                retryable=False,
            )
    if not safe:
        raise ModelUnavailable(
            f"model {model_id}: no .safetensors below {folder}; only such weights are loaded", retryable=False
        )
