"""A whole server, as `qanvas up` starts it."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from shared.settings import Settings
from tests.servers import Qanvas

TERMINAL = ("succeeded", "failed", "canceled", "expired")


class Server:
    """A running `qanvas up` and a client of it."""

    def __init__(self, process: Qanvas) -> None:
        self.process = process
        self.url = process.wait_for_line("ready ", 180).removeprefix("ready ")
        self.http = httpx.Client(base_url=self.url, timeout=70, trust_env=False)

    def submit(self, **input: Any) -> dict[str, Any]:
        answer = self.http.post("/v1/jobs", json={"model": "fake", "input": input})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def job(self, job_id: str, wait: int = 0) -> dict[str, Any]:
        return dict(self.http.get(f"/v1/jobs/{job_id}", params={"wait": wait}).raise_for_status().json())

    def ended(self, job_id: str, seconds: float = 120) -> dict[str, Any]:
        """The job, once it is terminal. An API that is just killed or starting is asked again."""
        until = time.monotonic() + seconds
        job: dict[str, Any] = {"id": job_id}
        while time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                job = self.job(job_id, wait=10)
                if job["status"] in TERMINAL:
                    return job
            time.sleep(0.1)
        raise AssertionError(f"{job} does not end: {self.process.said()}")

    def picture(self, job: dict[str, Any]) -> Image.Image:
        [output] = job["outputs"]
        answer = self.http.get(output["url"]).raise_for_status()
        assert answer.headers["content-type"] == output["media_type"] == "image/png"
        assert len(answer.content) == output["bytes"]
        picture = Image.open(io.BytesIO(answer.content))
        picture.load()
        assert picture.size == (output["width"], output["height"])
        return picture

    def workers(self) -> list[dict[str, Any]]:
        return list(self.http.get("/v1/workers").raise_for_status().json()["data"])


@pytest.fixture
def up_settings(tmp_path: Path) -> Settings:
    return Settings.from_env(
        {
            "QANVAS_DATA": str(tmp_path / "data"),
            "QANVAS_PORT": "0",
            "QANVAS_FAKE_MODELS": "1",
            "QANVAS_DEVICE": "cpu",
            "QANVAS_LEASE_SECONDS": "3",
            "QANVAS_UPKEEP_SECONDS": "0.5",
        }
    )


@pytest.fixture
def up(qanvas: Callable[..., Qanvas], up_settings: Settings) -> Callable[..., Server]:
    """``up("--workers", "2") -> Server``, ready, on the test's own folder."""
    return lambda *arguments: Server(qanvas("up", *arguments, settings=up_settings))
