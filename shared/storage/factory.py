"""From a storage URL to a storage."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.storage.base import Storage
from shared.storage.files import FileStorage

EXPECTED = "expected file:///absolute/path or s3://bucket/prefix?endpoint=https://…&region=…"


def local_folder(url: str) -> Path | None:
    """The folder that a storage URL names, None when it names something else."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path.startswith("/") and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return None


def open_storage(settings: Settings) -> Storage:
    """The storage of ``settings.storage_url``. Raises ConfigurationError; MissingExtra without boto3."""
    if (folder := local_folder(settings.storage_url)) is not None:
        return FileStorage(folder)
    url = urlsplit(settings.storage_url)
    if url.scheme == "s3" and url.netloc:
        from shared.storage.objects import ObjectStorage

        options = dict(parse_qsl(url.query))
        if options.keys() <= {"endpoint", "region"}:
            return ObjectStorage(
                bucket=url.netloc,
                prefix=unquote(url.path).strip("/"),
                endpoint=options.get("endpoint"),
                region=options.get("region"),
            )
    raise ConfigurationError(f"QANVAS_STORAGE_URL={settings.storage_url!r}: {EXPECTED}")
