"""A model's files as a folder on this machine."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.catalog import model_files
from shared.catalog.builtin import starter_folder, starters
from shared.catalog.entries.family import HubFiles
from shared.catalog.entries.model import Builtin, Folder, Hub, Model, Source, Starter, Stored
from shared.catalog.families.diffusion import FAMILY as DIFFUSION
from shared.catalog.hub import download
from shared.catalog.model_files import materialise
from shared.catalog.weights import PICKLED, check_weights
from shared.errors import ModelUnavailable
from shared.settings import Settings
from shared.storage.files import FileStorage
from tests.catalog.hub import COMMIT, LocalHub

PIPELINE = {
    "model_index.json": b"{}",
    "README.md": b"#",
    "pipeline.py": b"print()",
    "model.safetensors": b"everything in one file",
    "unet/config.json": b'{"unet": 1}',
    "unet/weights.safetensors": b"w" * 300_000,
    "unet/weights.fp16.safetensors": b"half",
    "unet/weights.bin": b"pickled",
    "tokenizer/merges.txt": b"a b",
}
LANGUAGE = {
    "config.json": b"{}",
    "model.safetensors": b"w",
    "original/a.safetensors": b"w",
    "pytorch.bin": b"",
}


def model(source: Source, **changes: Any) -> Model:
    fields = {"task": "text-to-image", "engine": "diffusion", "input_schema": {}, "output": "image/png"}
    return Model(id="m", source=source, **fields | changes)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "storage")


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return Settings.from_env({"QANVAS_DATA": str(tmp_path / "data")})


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    server = LocalHub(PIPELINE)
    yield server
    server.stop()


def test_a_model_without_files_has_no_folder(here: Settings, storage: FileStorage) -> None:
    assert materialise(model(Builtin()), here, storage) is None


def test_an_operators_folder_is_used_where_it_lies(
    here: Settings, storage: FileStorage, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    with pytest.raises(ModelUnavailable, match=r"no folder .* put the files there"):
        materialise(model(Folder(str(folder))), here, storage)
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "model.safetensors").touch()
    assert materialise(model(Folder(str(folder))), here, storage) == folder


def test_a_trained_model_comes_from_the_storage(here: Settings, storage: FileStorage) -> None:
    with pytest.raises(ModelUnavailable, match="train it again") as caught:
        materialise(model(Stored("models/job_1")), here, storage)
    assert not caught.value.retryable
    storage.write("models/job_1/model.safetensors", b"w")
    folder = materialise(model(Stored("models/job_1")), here, storage)
    assert folder is not None
    assert names(folder) == {"model.safetensors"}


def test_starters_lie_in_their_package(here: Settings, storage: FileStorage) -> None:
    for starter in starters():
        folder = materialise(starter, here, storage)
        assert folder is not None
        assert (folder / "README.md").is_file()
        assert starter.input_schema["additionalProperties"] is False
    assert starter_folder("nothing") is None
    with pytest.raises(ModelUnavailable, match="install qanvas with its starters"):
        materialise(model(Starter("nothing")), here, storage)


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pth", ".pkl"])
def test_pickled_weights_are_refused(
    here: Settings, storage: FileStorage, tmp_path: Path, suffix: str
) -> None:
    (tmp_path / "w" / "unet").mkdir(parents=True)
    (tmp_path / "w" / "vae").mkdir()
    (tmp_path / "w" / "unet" / "model.safetensors").touch()
    pickled = tmp_path / "w" / "vae" / f"model{suffix}"
    pickled.touch()
    with pytest.raises(ModelUnavailable, match=r"pickled, which can run any code .* convert it") as caught:
        materialise(model(Folder(str(tmp_path / "w"))), here, storage)
    assert str(pickled) in str(caught.value)
    assert not caught.value.retryable
    (tmp_path / "w" / "vae" / "model.safetensors").touch()
    assert materialise(model(Folder(str(tmp_path / "w"))), here, storage) == tmp_path / "w"


def test_a_folder_without_weights_is_refused(here: Settings, storage: FileStorage, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"no \.safetensors below"):
        materialise(model(Folder(str(tmp_path))), here, storage)


def test_of_a_pipeline_only_what_loads_safely_is_downloaded_and_only_once(
    hub: LocalHub, tmp_path: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    folder = download(
        Hub("owner/model"),
        tmp_path,
        files=DIFFUSION.hub,
        progress=lambda *done: seen.append(done),
        endpoint=hub.url,
    )
    wanted = {"model_index.json", "unet/config.json", "unet/weights.safetensors", "tokenizer/merges.txt"}
    assert names(folder) == wanted
    assert sorted(hub.fetched) == sorted(wanted)
    total = sum(len(PIPELINE[name]) for name in wanted)
    assert max(done for done, _ in seen) == total
    assert seen[-1][1] == total
    assert download(Hub("owner/model", COMMIT), tmp_path, files=DIFFUSION.hub, endpoint=hub.url) == folder
    assert len(hub.fetched) == len(wanted)


def _pickle(tmp_path: Path) -> bytes:
    return pickle.dumps(_Canary(tmp_path / "code-was-run"))


class _Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("suffix", sorted(PICKLED))
def test_a_repository_with_a_part_of_pickled_weights_alone_is_refused_before_its_download(
    tmp_path: Path, suffix: str
) -> None:
    pipeline = PIPELINE | {f"vae/weights{suffix}": _pickle(tmp_path)}
    language = {"config.json": b"{}", f"model{suffix}": _pickle(tmp_path)}
    for files, name in ((pipeline, f"vae/weights{suffix}"), (language, f"model{suffix}")):
        server = LocalHub(files)
        with pytest.raises(ModelUnavailable, match=rf"{name} is pickled, .* take a revision") as caught:
            download(
                Hub("owner/model"),
                tmp_path,
                files=DIFFUSION.hub if files is pipeline else HubFiles(),
                endpoint=server.url,
            )
        server.stop()
        assert "owner/model at main" in caught.value.message and not caught.value.retryable
        assert server.fetched == []
    assert not (tmp_path / "code-was-run").exists()


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_that_is_named_safetensors_is_refused(
    here: Settings, storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    content = _pickle(tmp_path)
    if kind == "torch":  # which puts it into a zip
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("archive/data.pkl", content)
        content = archive.getvalue()
    server = LocalHub(PIPELINE | {"vae/weights.safetensors": content})
    monkeypatch.setattr(model_files, "download", partial(download, endpoint=server.url))
    with pytest.raises(
        ModelUnavailable, match=r"vae/weights.safetensors, whatever its name says, is pickled"
    ):
        materialise(model(Hub("owner/model")), here, storage)
    server.stop()
    assert not (tmp_path / "code-was-run").exists()


def test_weights_whose_header_begins_as_a_pickle_does_are_no_pickle(tmp_path: Path) -> None:
    header = b"{" + b" " * (0x480 - 2) + b"}"
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    check_weights(tmp_path, "m")


def test_code_is_downloaded_only_when_it_is_trusted(hub: LocalHub, tmp_path: Path) -> None:
    folder = download(Hub("owner/model", COMMIT), tmp_path, files=DIFFUSION.hub, code=True, endpoint=hub.url)
    assert "pipeline.py" in names(folder)


def test_of_a_language_model_the_weights_lie_at_the_top(tmp_path: Path) -> None:
    server = LocalHub(LANGUAGE)
    folder = download(Hub("owner/model"), tmp_path, files=HubFiles(), endpoint=server.url)
    server.stop()
    assert names(folder) == {"config.json", "model.safetensors"}


def test_what_was_downloaded_is_found_without_a_network(hub: LocalHub, tmp_path: Path) -> None:
    folder = download(Hub("owner/model"), tmp_path, files=DIFFUSION.hub, endpoint=hub.url)
    hub.stop()
    for revision in ("main", COMMIT):
        source = Hub("owner/model", revision)
        assert download(source, tmp_path, files=DIFFUSION.hub, endpoint="http://127.0.0.1:1") == folder
    (folder / "unet" / "weights.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="check the network") as caught:
        download(Hub("owner/model"), tmp_path, files=DIFFUSION.hub, endpoint="http://127.0.0.1:1")
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("source", "gated", "said"),
    [
        (Hub("owner/other"), False, "owner/other at main is not on the hub, or private: .*HF_TOKEN"),
        (Hub("owner/model", "v9"), False, "owner/model has no revision v9; correct it in the catalog"),
        (Hub("owner/model"), True, "owner/model at main is gated: accept its terms on the hub"),
    ],
)
def test_what_the_hub_refuses_is_told_with_the_cure(
    tmp_path: Path, source: Hub, gated: bool, said: str
) -> None:
    server = LocalHub(PIPELINE, gated=gated)
    with pytest.raises(ModelUnavailable, match=said) as caught:
        download(source, tmp_path, files=DIFFUSION.hub, endpoint=server.url)
    server.stop()
    assert not caught.value.retryable
