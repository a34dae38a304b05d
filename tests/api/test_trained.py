"""A model that a job trained: what the catalog says that it does, it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from api.usecases.services import Services
from shared.files.store import FileStore
from shared.jobs.entities import TRAINING_QUEUE, Finish
from tests.api.helpers import Api, Hand, faults, png
from tests.engines.contexts import Recorder
from tests.engines.test_train_diffusion import TINY, squares
from worker.attempts.preparer import Preparer
from worker.attempts.results import Results
from worker.engines.contract.engine import Image, Result

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Workshop:
    """What a worker does with a job, without a kiln."""

    def __init__(self, services: Services, folder: Path) -> None:
        self._services, self._folder = services, folder
        self._preparer = Preparer(
            services.settings,
            services.catalog,
            services.storage,
            FileStore(services.database),
            services.jobs,
        )

    def run(self, queue: str) -> Result:
        hand = Hand(self._services, queue)
        job = hand.claim()
        scratch = self._folder / job.id
        order = self._preparer.order(job, scratch, lambda _: None)
        loaded = order.engine.load(order.model, order.folder, Recorder(scratch).device)
        result = order.engine.run(loaded, order.work, Recorder(scratch))
        ending = Results(self._services.storage).store(job, result, 0.0)
        [ended] = hand.leases.finish([Finish(job.id, job.attempt, ending)])
        assert not isinstance(ended, Exception)
        return result


def test_a_trained_model_redraws_inpaints_and_is_trained_further_as_the_catalog_says(
    api: Api, services: Services, tmp_path: Path
) -> None:
    workshop = Workshop(services, tmp_path)
    dataset = api.upload(squares(tmp_path).read_bytes(), "squares.zip", "application/zip")["id"]
    given = {**TINY, "text_layers": 2, "dataset": dataset, "name": "squares"}
    api.submit(model="train-diffusion", input=given)
    workshop.run(TRAINING_QUEUE)

    model: Any = api.get("/v1/models/squares").json
    assert model["tasks"] == ["text-to-image", "image-to-image", "inpainting"]
    assert list(model["input_schemas"]) == model["tasks"]
    picture = api.upload(png(16, 16))["id"]
    drawn: dict[str, Any] = {
        "text-to-image": {"clip_skip": 1},
        "image-to-image": {"image": picture, "strength": 0.5},
        "inpainting": {"image": picture, "mask": picture},
    }
    for task, inputs in drawn.items():
        body = {"model": "squares", "task": task, "input": {"prompt": "red square", "steps": 2, **inputs}}
        assert api.post("/v1/jobs", body).status_code == 202
        [image] = workshop.run("default").outputs
        assert isinstance(image, Image) and image.pixels.shape == (16, 16, 3)

    further: dict[str, Any] = {"dataset": dataset, "name": "squares-more", "base_model": "squares"}
    given = {**further, "steps": 2, "batch_size": 2, "prompts": ["red square"]}
    job = api.submit(model="train-diffusion", input=given)
    assert "size" not in job["input"], "it is the model's"
    workshop.run(TRAINING_QUEUE)
    again: Any = api.get("/v1/models/squares-more").json
    assert again["input_schemas"] == model["input_schemas"]
    assert again["description"] == "squares, trained further on 3 captioned pictures."
    refused = api.post("/v1/jobs", {"model": "train-diffusion", "input": {**further, "base_model": "square"}})
    assert faults(refused) == {
        "/input/base_model": "there is no such model; did you mean 'squares'?; GET /v1/models lists those "
        "there are"
    }

    skipped = {"model": "squares", "input": {"prompt": "red square", "clip_skip": 2}}
    assert faults(api.post("/v1/jobs", skipped)) == {
        "/input/clip_skip": "must be a whole number, 0 to 1; got 2"
    }
