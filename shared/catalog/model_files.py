"""A model's files as a folder on this machine, wherever they come from."""

from __future__ import annotations

from pathlib import Path

from shared.catalog.builtin import starter_folder
from shared.catalog.entries.model import Builtin, Folder, Hub, Model, Starter, Stored
from shared.catalog.families import hub_files
from shared.catalog.hub import OnProgress, download
from shared.catalog.weights import check_weights
from shared.errors import ModelUnavailable, NotFound
from shared.settings import Settings
from shared.storage.base import Storage


def materialise(
    model: Model, settings: Settings, storage: Storage, progress: OnProgress | None = None
) -> Path | None:
    """The folder, for reading only; None for a model that has no files. May take as long as a download.

    ``progress`` hears of downloads: bytes so far, and in all where that is known. Raises ModelUnavailable
    with the cure, and Unavailable when the storage is away."""
    folder = _folder(model, settings, storage, progress)
    if folder is not None:
        check_weights(folder, model.id)
    return folder


def _folder(model: Model, settings: Settings, storage: Storage, progress: OnProgress | None) -> Path | None:
    match model.source:
        case Builtin():
            return None
        case Starter(name):
            if (folder := starter_folder(name)) is None:
                raise ModelUnavailable(
                    f"the weights of {model.id} are not installed; install qanvas with its starters again",
                    retryable=False,
                )
            return folder
        case Folder(path):
            if not (folder := Path(path)).is_dir():
                raise ModelUnavailable(
                    f"model {model.id}: there is no folder {path} on this machine; put the files there, or "
                    "correct `folder` in the catalog"
                )
            return folder
        case Hub() as source:
            return download(
                source,
                settings.data / "hub",
                files=hub_files(model.engine),
                code=model.trust_remote_code,
                progress=progress,
            )
        case Stored(prefix):
            try:
                return storage.fetch_folder(prefix, settings.data / "models" / Path(prefix).name)
            except NotFound:
                raise ModelUnavailable(
                    f"model {model.id}: its files were deleted from the storage; train it again",
                    retryable=False,
                ) from None
