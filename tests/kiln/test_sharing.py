"""Several jobs in one kiln, drawn by the fake engine: what is shared, and what goes wrong alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import JobError, OutOfMemory
from tests.engines.contexts import Recorder
from tests.kiln.studio import Studio
from worker.engines.contract.engine import Call, Context, Image, Result, Stopped, StopReason, Work
from worker.engines.fake.engine import FakeEngine
from worker.kiln.kiln_job import Outcome


def drawing(seed: int, **given: Any) -> dict[str, Any]:
    return {"prompt": "a red apple", "seed": seed, "steps": 6, "width": 16, "height": 16, **given}


def picture(outcome: Outcome) -> Any:
    assert outcome.result is not None, outcome.trace
    [image] = outcome.result.outputs
    assert isinstance(image, Image)
    return image.pixels


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    with Studio(tmp_path, FakeEngine()) as studio:
        yield studio


class Brittle(FakeEngine):
    """Whose third step raises, in whichever batch the job of seed 2 is."""

    name = "brittle"

    def run(self, loaded: None, work: Work, context: Context) -> Result:
        for step in range(4):
            context.share(Call(point=self, arguments=step == 2 and work.input["seed"] == 2, key="same"))
        return Result(value={"seed": work.input["seed"]})

    def compute(self, calls: Sequence[Call]) -> list[None]:
        if any(call.arguments for call in calls):
            raise JobError("the brush broke")
        return [None] * len(calls)

    def agree(self, one: None, other: None) -> bool:
        return True


def test_jobs_of_different_lengths_share_their_steps_and_draw_what_they_draw_alone(
    studio: Studio, tmp_path: Path
) -> None:
    lengths = [4, 6, 5, 7]
    outcomes = studio.together([drawing(seed, steps=steps) for seed, steps in enumerate(lengths, 1)])
    assert (studio.kiln.forwards["calls"], studio.kiln.forwards["forwards"]) == (22, 7)
    for seed, (steps, outcome) in enumerate(zip(lengths, outcomes, strict=True), 1):
        work = Work(job_id="alone", task="text-to-image", input=drawing(seed, steps=steps))
        [alone] = FakeEngine().run(None, work, Recorder(tmp_path)).outputs
        assert isinstance(alone, Image) and np.array_equal(picture(outcome), alone.pixels)


def test_a_job_that_runs_apart_shares_no_step(studio: Studio) -> None:
    studio.together([drawing(1), drawing(2, exact=True), drawing(3)])
    counts = studio.kiln.forwards
    assert (counts["calls"], counts["forwards"], counts["shared"]) == (18, 12, 6)
    assert counts["alone/draw: exact"] == 6


def test_out_of_memory_halves_the_batch_and_is_remembered(studio: Studio) -> None:
    for outcome in studio.together([drawing(seed, oom_above=2) for seed in range(4)]):
        picture(outcome)
    counts = studio.kiln.forwards
    assert counts["splits"] == 1
    assert (counts["forwards"], counts["shared"]) == (12, 12)


def test_a_job_that_is_too_large_even_alone_fails_with_its_size_and_harms_nobody(studio: Studio) -> None:
    small, large, other = studio.together([drawing(1), drawing(2, oom_above=0), drawing(3)])
    assert isinstance(large.error, OutOfMemory)
    assert "draw" in large.error.message and "1 row(s)" in large.error.message
    picture(small)
    picture(other)


def test_a_job_that_raises_in_a_shared_step_fails_alone(studio: Studio) -> None:
    studio.engine = Brittle()
    first, bad, last = studio.together([drawing(seed) for seed in (1, 2, 3)])
    assert isinstance(bad.error, JobError) and "brush" in bad.error.message
    assert first.result == Result(value={"seed": 1}) and last.result == Result(value={"seed": 3})


def test_a_canceled_job_leaves_the_batch_and_the_others_stay(studio: Studio) -> None:
    long, short = studio.submit(drawing(1, steps=100_000)), studio.submit(drawing(2, steps=50))
    picture(short.wait())
    long.stop(StopReason.CANCELED)
    assert isinstance(long.wait().error, Stopped)


def test_a_job_that_comes_later_joins_at_the_next_step(studio: Studio) -> None:
    long = studio.submit(drawing(1, steps=100_000))
    picture(studio.submit(drawing(2, steps=20)).wait())
    assert studio.kiln.forwards["shared"] >= 20
    long.stop(StopReason.CANCELED)
    long.wait()
