"""Input files by URL: from real servers that redirect, lie, fail, and send too much."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import JobError
from shared.files.media_types import sniff
from shared.outward import Outward
from tests.api.helpers import png
from tests.receivers import Answer, Request, receiving
from tests.worker.conftest import Shop
from worker.engines.contract.engine import Progress
from worker.inputs.url_fetcher import MOST_REDIRECTS, UrlFetcher

INCOMING = UrlFetcher(Outward(allow_private=True), most_bytes=10_000, seconds=20)


def fetch(url: str, folder: Path, *, kind: str = "image", incoming: UrlFetcher = INCOMING) -> Path:
    return incoming.fetch(url, kind, "image", folder, lambda progress: None)


def failure(url: str, folder: Path, **options: object) -> JobError:
    with pytest.raises(JobError) as failed:
        fetch(url, folder, **options)  # type: ignore[arg-type]
    assert failed.value.type == "invalid-input" and failed.value.message.startswith("image: ")
    return failed.value


def test_a_file_is_fetched_and_its_progress_told(tmp_path: Path) -> None:
    told: list[Progress] = []
    with receiving(lambda number, request: Answer(body=png(8, 8))) as server:
        path = INCOMING.fetch(f"{server.url}/a.txt", "image", "image", tmp_path / "new", told.append)
    assert path.read_bytes() == png(8, 8) and path.name == "image.png"
    assert told[0].stage == "fetch" and told[0].total == len(png(8, 8))


def test_what_a_file_is_tells_its_content_and_not_its_header(tmp_path: Path) -> None:
    page = Answer(headers={"Content-Type": "image/png"}, body=b"<html>no picture</html>")
    with receiving(lambda number, request: page) as server:
        error = failure(server.url, tmp_path)
    assert "by its content it is text/plain" in error.message and not error.retryable


def test_a_redirect_is_followed_and_checked_like_the_first_url(tmp_path: Path) -> None:
    def script(number: int, request: Request) -> Answer:
        return Answer(302, {"Location": "/b"}) if request.path == "/a" else Answer(body=png())

    with receiving(script) as server:
        assert fetch(f"{server.url}/a", tmp_path).read_bytes() == png()
    with receiving(lambda n, r: Answer(302, {"Location": "http://169.254.169.254/latest/"})) as server:
        error = failure(server.url, tmp_path)
    assert "169.254.169.254 is not a public address" in error.message and not error.retryable


def test_a_redirect_to_another_scheme_is_refused(tmp_path: Path) -> None:
    with receiving(lambda number, request: Answer(302, {"Location": "file:///etc/passwd"})) as server:
        assert "http:// or https://" in failure(server.url, tmp_path).message


def test_redirects_without_end_are_refused(tmp_path: Path) -> None:
    with receiving(lambda number, request: Answer(302, {"Location": f"/{number}"})) as server:
        assert f"more than {MOST_REDIRECTS} redirects" in failure(server.url, tmp_path).message
        assert len(server.requests) == MOST_REDIRECTS + 1


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (403, False), (429, True), (503, True)])
def test_a_failure_is_tried_again_only_where_that_may_help(
    tmp_path: Path, status: int, retryable: bool
) -> None:
    with receiving(lambda number, request: Answer(status)) as server:
        error = failure(server.url, tmp_path)
    assert f"answered {status}" in error.message and error.retryable is retryable


def test_a_file_that_is_announced_or_turns_out_too_large_is_refused(tmp_path: Path) -> None:
    endless = itertools.chain([png()], itertools.repeat(b"\0" * 4096))
    with receiving(lambda number, request: Answer(body=b"\0" * 20_000)) as server:
        assert "20000 bytes are too many" in failure(server.url, tmp_path).message
    with receiving(lambda number, request: Answer(body=endless)) as server:
        error = failure(server.url, tmp_path)
    assert "larger than 10000 bytes" in error.message and not error.retryable


def test_a_file_that_takes_too_long_is_refused_for_now(tmp_path: Path) -> None:
    ended = threading.Event()

    def drip() -> Iterator[bytes]:
        yield png()
        while not ended.wait(0.05):
            yield b"\0"

    slow = UrlFetcher(Outward(allow_private=True), most_bytes=10_000, seconds=0.5)
    with receiving(lambda number, request: Answer(body=drip())) as server:
        error = failure(server.url, tmp_path, incoming=slow)
        ended.set()
    assert "no answer in time" in error.message and error.retryable


def test_a_private_address_is_refused_unless_the_operator_allows_it(tmp_path: Path) -> None:
    guarded = UrlFetcher(Outward(allow_private=False), most_bytes=10_000, seconds=20)
    with receiving() as server:
        error = failure(server.url, tmp_path, incoming=guarded)
        assert "not a public address" in error.message and not error.retryable
        assert server.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_job_whose_url_is_refused_fails_at_once_and_says_why(shop: Shop) -> None:
    with receiving(lambda number, request: Answer(body=b"hello")) as server:
        shop.worker()
        [job_id] = shop.submit([shop.new(model="train-text", dataset=server.url, name="mine")])
        job = shop.wait(job_id)
        assert server.requests == []
    assert job.status == "failed" and job.attempts == 1 and job.error is not None
    assert job.error["type"] == "invalid-input" and not job.error["retryable"]
    assert job.error["message"].startswith("dataset: ") and "not a public address" in job.error["message"]


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
        (b"\0\0\0\x20ftypM4A ", "audio/mp4"),
        (b"\0\0\0\x20ftypisom", "video/mp4"),
        (b"PK\x03\x04rest", "application/zip"),
        ("café".encode(), "text/plain"),
        (("x" + "é" * 3000).encode()[:4096], "text/plain"),
        (b"caf\xe9", "application/octet-stream"),
        (b"", "application/octet-stream"),
        (b"\x80\x04\x95pickle\0", "application/octet-stream"),
    ],
)
def test_a_file_is_what_its_first_bytes_say(head: bytes, media_type: str) -> None:
    assert sniff(head)[0] == media_type
