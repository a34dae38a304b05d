"""Training as a job: beside generation, with checkpoints, and its model enters the catalog."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from shared.states import Status
from tests.engines.test_train_diffusion import TINY, squares
from tests.servers import wait_until
from tests.worker.conftest import Shop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]

#: seconds: loading torch for the first time can hold up every thread of a process on a busy machine
LEASE = 20.0

CORPUS = "\n\n".join(f"an apple is a fruit that is red, number {number}." for number in range(200))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the workers started here: threads that wait for each other crawl on a machine that is busy."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def training(shop: Shop, name: str, steps: int) -> str:
    dataset = "data:text/plain;base64," + base64.b64encode(CORPUS.encode()).decode()
    return shop.draw(
        model="train-text",
        dataset=dataset,
        name=name,
        steps=steps,
        width=64,
        layers=1,
        context=32,
        vocabulary=300,
        seed=1,
    )


def test_a_trained_model_enters_the_catalog_and_answers(shop: Shop) -> None:
    shop.worker(slots=1, lease_seconds=LEASE)
    trained = shop.wait(training(shop, "apples", 20), 120)
    assert trained.status is Status.SUCCEEDED, trained.error
    model = shop.catalog.get("apples")
    assert model.task == "text-generation"
    answer = shop.wait(shop.draw(model="apples", prompt="an apple", max_tokens=8))
    assert answer.status is Status.SUCCEEDED, answer.error
    assert answer.result is not None
    assert list(shop.storage.list(f"checkpoints/{trained.id}")) == []


def test_pictures_are_drawn_while_a_model_trains_on_the_only_slot(shop: Shop) -> None:
    shop.worker(slots=1, lease_seconds=LEASE)
    trained = training(shop, "long", 100_000)
    shop.wait_for_step(trained, 1, 120)
    second = training(shop, "longer", 100_000)
    pictures = [shop.draw(steps=5) for _ in range(5)]
    assert {job.status for job in map(shop.wait, pictures)} == {Status.SUCCEEDED}
    assert shop.jobs.get(trained).status is Status.RUNNING
    assert shop.jobs.get(second).status is Status.QUEUED
    shop.jobs.cancel(trained)
    assert shop.wait(trained).status is Status.CANCELED
    wait_until(lambda: shop.jobs.get(second).status is Status.RUNNING, what="the next training")
    shop.jobs.cancel(second)
    shop.wait(second)


def test_training_that_is_handed_back_goes_on_where_it_was(shop: Shop) -> None:
    first = shop.worker(drain_seconds=60.0, lease_seconds=LEASE)
    job_id = training(shop, "handed", 1500)
    shop.wait_for_step(job_id, 20, 120)
    assert first.stop(30) == 0, "training is handed back at once, whatever the grace"
    assert shop.jobs.get(job_id).status is Status.QUEUED
    shop.worker(lease_seconds=LEASE)
    job = shop.wait(job_id, 120)
    assert job.status is Status.SUCCEEDED, job.error
    assert (job.attempt, job.attempts) == (2, 1)
    events = shop.events.read(job_id)
    again = next(place for place, event in enumerate(events) if event.data.get("attempt") == 2)
    trained = [event.data["step"] for event in events[again:] if event.data.get("stage") == "train"]
    assert trained[0] >= 20, "it began anew"


def test_a_training_goes_on_from_a_trained_model_and_after_a_stop_from_its_checkpoint(
    shop: Shop, tmp_path: Path
) -> None:
    dataset = "data:application/zip;base64," + base64.b64encode(squares(tmp_path).read_bytes()).decode()
    first = shop.worker(drain_seconds=60.0, lease_seconds=LEASE)
    begun = shop.wait(shop.draw(model="train-diffusion", dataset=dataset, **TINY | {"name": "squares"}), 120)
    assert begun.status is Status.SUCCEEDED, begun.error
    further = {"name": "squares-more", "base_model": "squares", "steps": 300, "batch_size": 2}
    job_id = shop.draw(model="train-diffusion", dataset=dataset, prompts=["red square"], **further)
    shop.wait_for_step(job_id, 20, 120)
    assert first.stop(60) == 0
    shop.worker(lease_seconds=LEASE)
    job = shop.wait(job_id, 240)
    assert job.status is Status.SUCCEEDED, job.error
    assert job.attempt == 2
    events = shop.events.read(job_id)
    again = next(place for place, event in enumerate(events) if event.data.get("attempt") == 2)
    trained = [event.data["step"] for event in events[again:] if event.data.get("stage") == "denoiser"]
    assert trained[0] >= 20, "it began anew"
    assert "autoencoder" not in {event.data.get("stage") for event in events}
    assert shop.catalog.get("squares-more").description.startswith("squares, trained further")
