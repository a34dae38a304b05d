"""Datasets of trainings, read while others compute: stopped at once, and harmless whatever they hold."""

from __future__ import annotations

import io
import json
import os
import signal
import zipfile

import PIL.Image
import psutil
import pytest

from shared.files.store import FileStore, NewFile
from shared.jobs.entities import Job
from shared.states import Status
from tests.servers import Qanvas, lives, wait_until
from tests.worker.conftest import Shop
from worker.media.limits import DATASET

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]

#: seconds: loading torch for the first time can hold up every thread of a process on a busy machine
LEASE = 30.0
#: seconds in which a stop must have been heard; it takes one or two
SOON = 30.0


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the workers started here: threads that wait for each other crawl on a machine that is busy."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def pictures(count: int, rows: int, edge: int) -> bytes:
    """An archive of kilobytes: ``count`` pictures of ``edge`` pixels squared, in ``rows`` rows."""
    file = io.BytesIO()
    PIL.Image.new("L", (edge, edge), 200).save(file, "PNG")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as opened:
        lines = [json.dumps({"file_name": f"{row % count}.png", "text": "a"}) for row in range(rows)]
        opened.writestr("metadata.jsonl", "\n".join(lines))
        for number in range(count):
            opened.writestr(f"{number}.png", file.getvalue())
    return target.getvalue()


def upload(shop: Shop, content: bytes, name: str = "data.zip") -> str:
    stored = shop.storage.write(f"files/{name}", content)
    kind = "application/zip" if name.endswith(".zip") else "text/plain"
    new = NewFile(
        tenant="default",
        filename=name,
        purpose="dataset",
        media_type=kind,
        bytes=stored.bytes,
        sha256=stored.sha256,
        key=stored.key,
    )
    return FileStore(shop.database).add(new).id


def endless(shop: Shop) -> str:
    """A dataset that takes minutes to read, all of it within the limits."""
    return upload(shop, pictures(count=450, rows=450, edge=6300))


def training(shop: Shop, dataset: str, **more: object) -> str:
    given = {"model": "train-gan", "name": "mine", "dataset": dataset, "image_size": 16, "steps": 1, **more}
    return shop.draw(**given)


def is_reading(shop: Shop, job_id: str) -> bool:
    latest = shop.events.latest_progress([job_id]).get(job_id)
    return latest is not None and latest["stage"] == "read" and latest["step"] >= 1


def wait_until_read(shop: Shop, job_id: str) -> None:
    wait_until(lambda: is_reading(shop, job_id), 120, what=f"{job_id} to read its dataset")


def decoders(worker: Qanvas) -> list[psutil.Process]:
    """The processes that read datasets for a worker, without those that only start them."""
    starters = [
        one
        for one in psutil.Process(worker.pid).children()
        if {"worker.media.child", str(DATASET.memory)} <= set(one.cmdline())
    ]
    return [decoder for one in starters for decoder in one.children()]


def draws(shop: Shop) -> Job:
    """Another job, which must not notice anything."""
    return shop.wait(shop.draw(steps=2), 60)


def test_an_archive_of_kilobytes_that_names_one_picture_20000_times_is_soon_trained_on(shop: Shop) -> None:
    """It kept the engine thread busy for hours, and neither a cancel nor a time-out was heard."""
    content = pictures(count=1, rows=20_000, edge=6300)
    assert len(content) < 200_000
    shop.worker(slots=1, lease_seconds=LEASE)
    job = shop.wait(training(shop, upload(shop, content), batch=2, width=8, latent=8), 240)
    assert job.status is Status.SUCCEEDED, job.error
    assert job.result is not None and job.result["pictures"] == 20_000


def test_a_dataset_is_read_beside_other_jobs_and_a_cancel_is_heard(shop: Shop) -> None:
    worker = shop.worker(slots=1, lease_seconds=LEASE)
    job_id = training(shop, endless(shop))
    wait_until_read(shop, job_id)
    assert draws(shop).status is Status.SUCCEEDED
    assert is_reading(shop, job_id)
    latest = shop.events.latest_progress([job_id])[job_id]
    assert latest["total"] == 450 and latest["fraction"] < 1
    [decoder] = decoders(worker)
    shop.jobs.cancel(job_id)
    assert shop.wait(job_id, SOON).status is Status.CANCELED
    wait_until(lambda: not lives(decoder), what="its decoder to end")
    assert worker.process.poll() is None


def test_a_time_limit_is_heard_while_a_dataset_is_read(shop: Shop) -> None:
    worker = shop.worker(slots=1, lease_seconds=LEASE)
    job = shop.wait(training(shop, endless(shop), timeout=2.0), 60 + SOON)
    assert job.status is Status.FAILED and job.error is not None
    assert job.error["type"] == "deadline" and "timeout of 2 s" in job.error["message"]
    wait_until(lambda: not decoders(worker), what="its decoder to end")


def test_a_worker_that_is_told_to_leave_hands_a_dataset_that_is_being_read_back(shop: Shop) -> None:
    worker = shop.worker(slots=1, lease_seconds=LEASE, drain_seconds=120.0)
    job_id = training(shop, endless(shop))
    wait_until_read(shop, job_id)
    family = worker.family()
    assert worker.stop(SOON) == 0
    job = shop.jobs.get(job_id)
    assert (job.status, job.attempts) == (Status.QUEUED, 0)
    wait_until(lambda: not any(one.is_running() for one in family), what="all its processes to end")


@pytest.mark.chaos
def test_a_decoder_that_crashes_ends_its_job_and_nothing_else(shop: Shop) -> None:
    worker = shop.worker(slots=2, lease_seconds=LEASE)
    job_id = training(shop, endless(shop))
    beside = shop.draw(steps=200, step_seconds=0.02)
    wait_until_read(shop, job_id)
    [decoder] = decoders(worker)
    os.kill(decoder.pid, signal.SIGSEGV)
    job = shop.wait(job_id, SOON)
    assert job.status is Status.FAILED and job.error is not None
    assert job.error["type"] == "invalid-input" and not job.error["retryable"]
    assert job.error["message"].startswith("/input/dataset: makes its decoder crash; ")
    assert shop.wait(beside).status is Status.SUCCEEDED
    assert draws(shop).status is Status.SUCCEEDED
    assert worker.process.poll() is None


def test_a_text_is_turned_into_tokens_beside_other_jobs_and_a_cancel_is_heard(shop: Shop) -> None:
    words = " ".join(f"word{number:06d}" for number in range(60_000))
    documents = (words[start : start + 500_000] for start in range(0, len(words), 500_000))
    content = "\n\n".join([*documents] * 60).encode()
    worker = shop.worker(slots=1, lease_seconds=LEASE)
    job_id = shop.draw(
        model="train-text", name="mine", dataset=upload(shop, content, "data.txt"), vocabulary=32_768, steps=1
    )
    wait_until(lambda: decoders(worker), 120, what="its text to be read")
    assert draws(shop).status is Status.SUCCEEDED
    shop.jobs.cancel(job_id)
    assert shop.wait(job_id, SOON).status is Status.CANCELED
    wait_until(lambda: not decoders(worker), what="its decoder to end")
