"""The storage in an object store that speaks S3. Needs the extra ``s3``."""

from __future__ import annotations

import hashlib
import importlib
import io
import mimetypes
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from shared.chunks import in_chunks
from shared.errors import MissingExtra, NotFound, Unavailable
from shared.storage.base import StoredObject
from shared.storage.keys import check_key, check_prefix

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 8 << 20  #: bytes: what is smaller goes up in one request
DELETE_AT_ONCE = 1000  #: S3's own limit
ABANDONED = 86_400.0  #: seconds after which an upload in parts has no writer any more


class ObjectStorage:
    """One object for each key below ``prefix`` of a bucket. Implements ``Storage``.

    Credentials come from where boto3 looks for them: ``AWS_…`` variables, ``~/.aws``, the machine's role."""

    def __init__(self, bucket: str, prefix: str = "", endpoint: str | None = None, region: str | None = None):
        """Talks to nobody yet. Raises MissingExtra without boto3."""
        try:
            boto3 = importlib.import_module("boto3")
        except ModuleNotFoundError:
            raise MissingExtra("boto3", "s3") from None
        config = importlib.import_module("botocore.config").Config(
            signature_version="s3v4",
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 3},
        )
        raised = importlib.import_module("botocore.exceptions")
        self._refusal: Any = raised.ClientError
        self._failures: Any = (raised.BotoCoreError, boto3.exceptions.Boto3Error)
        self._client: Any = boto3.session.Session().client(
            "s3", endpoint_url=endpoint, region_name=region, config=config
        )
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def write(self, key: str, source: BinaryIO | bytes) -> StoredObject:
        name = self._prefix + check_key(key)
        media_type = mimetypes.guess_type(key)[0] or "application/octet-stream"
        hashed = _Hashed(io.BytesIO(source) if isinstance(source, bytes) else source)
        with self._translated(key):
            first = hashed.read(CHUNK)
            if len(first) < CHUNK:
                self._client.put_object(Bucket=self._bucket, Key=name, Body=first, ContentType=media_type)
            else:
                self._client.upload_fileobj(
                    _Chained(first, hashed), self._bucket, name, ExtraArgs={"ContentType": media_type}
                )
        return StoredObject(key, hashed.size, hashed.hexdigest())

    def open(self, key: str) -> BinaryIO:
        name = self._prefix + check_key(key)
        with self._translated(key):
            head = self._client.head_object(Bucket=self._bucket, Key=name)

        def response(position: int) -> Any:
            # The same version from start to end, whoever writes meanwhile.
            return self._client.get_object(
                Bucket=self._bucket, Key=name, Range=f"bytes={position}-", IfMatch=head["ETag"]
            )["Body"]

        reader = _ObjectReader(response, head["ContentLength"], lambda: self._translated(key))
        return cast(BinaryIO, io.BufferedReader(reader, 1 << 16))

    def size(self, key: str) -> int:
        with self._translated(key):
            head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + check_key(key))
        return int(head["ContentLength"])

    def delete(self, key: str) -> None:
        with self._translated(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + check_key(key))

    def delete_prefix(self, prefix: str) -> None:
        keys = list(self._keys(check_prefix(prefix)))  # all before any goes: pages follow each other
        for some in in_chunks(keys, DELETE_AT_ONCE):
            batch = {"Objects": [{"Key": self._prefix + key} for key in some], "Quiet": True}
            with self._translated(prefix):
                answer = self._client.delete_objects(Bucket=self._bucket, Delete=batch)
            if errors := answer.get("Errors"):
                raise Unavailable(
                    "the object store kept a file", f"{errors[0]['Key']!r}: {errors[0].get('Message')}"
                )

    def list(self, prefix: str) -> Iterator[str]:
        return self._keys(check_prefix(prefix))

    def older(self, prefix: str, seconds: float) -> Iterator[str]:
        before = time.time() - seconds
        for key, written in self._objects(check_prefix(prefix)):
            if written <= before:
                yield key

    def sweep(self) -> None:
        """Ends uploads in parts that nobody completed for a day."""
        before = time.time() - ABANDONED
        with self._translated(self._prefix):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for upload in (upload for page in pages for upload in page.get("Uploads", ())):
                if upload["Initiated"].timestamp() < before:
                    self._client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )

    def local_path(self, key: str) -> None:
        return None

    def signed_url(self, key: str, seconds: int) -> str:
        params = {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}
        with self._translated(key):
            return str(self._client.generate_presigned_url("get_object", Params=params, ExpiresIn=seconds))

    def fetch_folder(self, prefix: str, into: Path) -> Path:
        """Downloads beside ``into`` and renames when all is there; an ``into`` that has files is complete."""
        if into.is_dir() and any(into.iterdir()):
            return into
        folder = check_prefix(prefix)
        into.parent.mkdir(parents=True, exist_ok=True)
        partial = into.with_name(f".{into.name}.{uuid.uuid4().hex}")
        try:
            for key in self._keys(folder):
                target = partial / check_key(key).removeprefix(f"{folder}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._translated(key):
                    self._client.download_file(self._bucket, self._prefix + key, str(target))
            if not partial.exists():
                raise NotFound("stored folder", prefix)
            try:
                partial.replace(into)
            except OSError:
                if not any(into.iterdir()):
                    raise  # not because another process fetched the same folder first
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return into

    def copy_folder(self, prefix: str, into: Path) -> None:
        self.fetch_folder(prefix, into)

    def _keys(self, folder: str) -> Iterator[str]:
        return (key for key, _ in self._objects(folder))

    def _objects(self, folder: str) -> Iterator[tuple[str, float]]:
        """Keys, and when each was written, in seconds since 1970."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=f"{self._prefix}{folder}/"
        )
        with self._translated(folder):
            for page in pages:
                for item in page.get("Contents", ()):
                    yield item["Key"].removeprefix(self._prefix), item["LastModified"].timestamp()

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """boto's errors in our words."""
        try:
            yield
        except (self._refusal, *self._failures) as error:
            code = str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
            if code in ("404", "NoSuchKey", "NotFound"):
                raise NotFound("stored file", key) from None
            raise Unavailable(
                "the object store refused a file",
                f"{key!r} in bucket {self._bucket!r}: {error}; "
                "check the bucket and endpoint in QANVAS_STORAGE_URL "
                "and the credentials in AWS_ACCESS_KEY_ID",
            ) from error


class _Hashed:
    """Counts and hashes what is read through it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source, self._digest, self.size = source, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        parts, wanted = [], size
        while wanted != 0:
            part = self._source.read(wanted)  # a pipe may give less than it was asked for
            if not part:
                break
            parts.append(part)
            self._digest.update(part)
            self.size += len(part)
            wanted = wanted - len(part) if size > 0 else -1
        return b"".join(parts)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class _Chained:
    """First the bytes that were read already, then the rest. Not seekable on purpose: an uploader that
    could seek would read, and so hash, parts twice."""

    def __init__(self, first: bytes, rest: _Hashed) -> None:
        self._first, self._rest = io.BytesIO(first), rest

    def read(self, size: int = -1) -> bytes:
        head = self._first.read(size)
        if 0 <= size == len(head):
            return head
        return head + self._rest.read(size - len(head) if size > 0 else -1)


class _ObjectReader(io.RawIOBase):
    """Reads on from the last position in one open response; a seek elsewhere starts another."""

    def __init__(
        self, respond: Callable[[int], Any], size: int, translated: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """``respond`` opens a response that starts at a position; ``size`` is the content's, in bytes."""
        self._respond, self._size, self._translated = respond, size, translated
        self._response: Any = None
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the start")
        if base + offset != self._position:
            self._drop()
            self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if self._position >= self._size or not view:
            return 0
        with self._translated():
            if self._response is None:
                self._response = self._respond(self._position)
            chunk = self._response.read(len(view))
        view[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None
