"""Models of the Hugging Face hub, kept in a folder of ours. Weights in safetensors alone are downloaded."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from shared.catalog.entries.family import HubFiles
from shared.catalog.entries.model import Hub
from shared.catalog.weights import only_pickled, refused
from shared.errors import ModelUnavailable

#: bytes so far, and bytes in all where they are known
OnProgress = Callable[[int, int | None], None]

#: seconds for the list of a repository's files
_SECONDS = 10.0

#: the same weights again: in half precision, before averaging, or in the publisher's own format
_TWICE = ("*.fp16*.safetensors", "*.bf16*.safetensors", "*.non_ema*", "original/*", "consolidated*")


def download(
    source: Hub,
    cache: Path,
    *,
    files: HubFiles,
    code: bool = False,
    progress: OnProgress | None = None,
    endpoint: str | None = None,
) -> Path:
    """The folder of the model's files at its revision; without a network, what an earlier call left there.

    ``files``: which files the model needs; ``code``: its Python files too. HF_TOKEN and HF_ENDPOINT
    are the hub library's own variables. Raises ModelUnavailable with the cure."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    except ModuleNotFoundError:
        raise ModelUnavailable(
            "huggingface_hub is not installed; install it with: pip install 'qanvas[worker]'", retryable=False
        ) from None
    name = f"{source.repo} at {source.revision}"
    if not source.file:
        _refuse_pickles(HfApi(endpoint=endpoint), source, name, files=files)
    try:
        folder = snapshot_download(
            source.repo,
            revision=source.revision,
            cache_dir=cache,
            allow_patterns=_wanted(source, files=files, code=code),
            ignore_patterns=list(_TWICE),
            tqdm_class=_bar(progress),
            endpoint=endpoint,
        )
    except GatedRepoError as error:
        raise ModelUnavailable(
            f"{name} is gated: accept its terms on the hub, and set HF_TOKEN for the worker", retryable=False
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelUnavailable(
            f"{name} is not on the hub, or private: check the name, or set HF_TOKEN for the worker",
            retryable=False,
        ) from error
    except RevisionNotFoundError as error:
        raise ModelUnavailable(
            f"{source.repo} has no revision {source.revision}; correct it in the catalog", retryable=False
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelUnavailable(
            f"{name} could not be downloaded: {_first_line(error)}; check the network and the free space"
        ) from error
    return Path(folder)


def _refuse_pickles(hub: Any, source: Hub, name: str, *, files: HubFiles) -> None:
    """Raise ModelUnavailable, before anything is downloaded, where a part has pickled weights alone."""
    try:
        listed = hub.model_info(source.repo, revision=source.revision, timeout=_SECONDS).siblings or ()
    except Exception:  # noqa: BLE001 - its own or its HTTP library's
        return  # the download itself says what is wrong, or finds what an earlier one left
    depth = files.depth  # what lies elsewhere is not wanted
    paths = [path for one in listed if len((path := PurePosixPath(one.rfilename)).parts) == depth]
    if (example := only_pickled(path for path in paths if path.parts[0] != "original")) is not None:
        raise refused(name, str(example))


def _wanted(source: Hub, *, files: HubFiles, code: bool) -> list[str]:
    if source.file:
        return [source.file]
    return [*files.wanted, *(["*.py"] if code else [])]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _bar(progress: OnProgress | None) -> type[Any]:
    """The hub library reports through a class of progress bars: ours draws nothing and tells ``progress``."""
    base: Any = import_module("tqdm").tqdm

    class Bar(base):  # type: ignore[misc]  # tqdm ships no types
        def __init__(self, *args: Any, **options: Any) -> None:
            # Another bar counts files, not bytes.
            self._tells = options.get("unit") == "B" and progress is not None
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if self._tells and progress is not None:
                progress(int(self.n), int(self.total) if self.total else None)
            return None

    return Bar
