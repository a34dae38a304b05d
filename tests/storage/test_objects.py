"""What only an object store does."""

from __future__ import annotations

import importlib
import sys
import urllib.request
from pathlib import Path

import pytest

from shared.errors import ConfigurationError, MissingExtra, Unavailable
from shared.settings import Settings
from shared.storage import open_storage
from shared.storage.files import FileStorage
from shared.storage.objects import ObjectStorage


def test_whoever_has_a_signed_url_reads_with_the_right_type(s3_endpoint: str) -> None:
    storage = ObjectStorage("qanvas", "signed", endpoint=s3_endpoint)
    storage.write("outputs/job_1/1/0.png", b"picture")
    with urllib.request.urlopen(storage.signed_url("outputs/job_1/1/0.png", 60)) as answer:
        assert answer.read() == b"picture"
        assert answer.headers["Content-Type"] == "image/png"


def test_two_prefixes_of_a_bucket_are_apart(s3_endpoint: str) -> None:
    one, two = (ObjectStorage("qanvas", prefix, endpoint=s3_endpoint) for prefix in ("one", "two"))
    one.write("files/file_1", b"1")
    assert list(two.list("files")) == []
    two.delete_prefix("files")
    assert list(one.list("files")) == ["files/file_1"]


def test_a_missing_bucket_or_server_says_what_to_check(s3_endpoint: str) -> None:
    with pytest.raises(Unavailable, match="QANVAS_STORAGE_URL"):
        ObjectStorage("absent", endpoint=s3_endpoint).write("a", b"")
    with pytest.raises(Unavailable, match="QANVAS_STORAGE_URL") as refused:
        ObjectStorage("qanvas", endpoint="http://127.0.0.1:1").write("a", b"")
    assert refused.value.public == "the object store refused a file; the server's log says why"


def test_without_boto3_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("boto3")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtra, match=r"pip install 'qanvas\[s3\]'"):
        ObjectStorage("qanvas")


def test_the_storage_url_chooses(tmp_path: Path, s3_endpoint: str) -> None:
    settings = Settings.from_env({"QANVAS_DATA": str(tmp_path / "with space")})
    default = open_storage(settings)
    assert isinstance(default, FileStorage)
    assert default.root == tmp_path / "with space" / "storage"

    bucket = open_storage(settings.with_(storage_url=f"s3://qanvas/some/where?endpoint={s3_endpoint}"))
    bucket.write("files/file_1", b"1")
    assert list(ObjectStorage("qanvas", "some/where", endpoint=s3_endpoint).list("files")) == ["files/file_1"]


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "relative/path", "s3://", "file://host/x", "s3://b?enpoint=x"]
)
def test_an_unknown_storage_url_is_refused_with_what_is_expected(tmp_path: Path, url: str) -> None:
    settings = Settings.from_env({"QANVAS_DATA": str(tmp_path)}).with_(storage_url=url)
    with pytest.raises(ConfigurationError, match="expected file:///"):
        open_storage(settings)
