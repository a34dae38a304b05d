"""A picture whose worker dies goes on from its checkpoint at another."""

from __future__ import annotations

import numpy as np
import pytest

from shared.states import Status
from tests.servers import wait_until
from tests.worker.conftest import Shop

#: of four pictures: long enough for a checkpoint on any machine
STEPS = 150


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_picture_whose_worker_is_killed_goes_on_from_its_checkpoint(shop: Shop) -> None:
    wanted = {"model": "starter-image", "steps": STEPS, "num_images": 4, "seed": 7, "exact": True}
    first = shop.worker(slots=1, lease_seconds=10.0)
    job_id = shop.draw(**wanted)
    wait_until(lambda: shop.jobs.get(job_id).checkpoint, 300.0, what="a checkpoint")
    first.kill()
    shop.worker(slots=1, lease_seconds=10.0)
    job = shop.wait(job_id, 300.0)
    assert job.status is Status.SUCCEEDED and job.attempt == 2, job.error
    [worker] = [one for one in shop.registry.alive(within=5.0) if one.forwards.get("calls")]
    assert 0 < worker.forwards["calls"] < STEPS, "it computed its finished steps again"
    whole = shop.wait(shop.draw(**wanted), 300.0)
    assert np.array_equal(shop.pixels(job), shop.pixels(whole))
    assert not list(shop.storage.list(f"checkpoints/{job_id}")), "the checkpoint of an ended job stays"
