"""The model for drills: its picture, its faults, and that it goes on where it stopped."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from shared.errors import JobError, OutOfMemory
from tests.engines.contexts import Recorder
from worker.engines.contract.engine import Image, Progress, Stopped, StopReason, Work
from worker.engines.fake.engine import FakeEngine


def work(**changes: Any) -> Work:
    given = {"prompt": "a red apple", "seed": 7, "width": 48, "height": 32, "steps": 6, **changes}
    return Work(job_id="job_1", task="text-to-image", input=given)


def draw(context: Recorder, **changes: Any) -> NDArray[np.uint8]:
    [output] = FakeEngine().run(None, work(**changes), context).outputs
    assert isinstance(output, Image)
    return output.pixels


def test_the_picture_is_a_function_of_prompt_and_seed(tmp_path: Path) -> None:
    picture = draw(Recorder(tmp_path))
    assert picture.shape == (32, 48, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, draw(Recorder(tmp_path)))
    for other in ({"seed": 8}, {"prompt": "a green apple"}, {"steps": 5}):
        assert not np.array_equal(picture, draw(Recorder(tmp_path), **other))


def test_it_tells_each_step(tmp_path: Path) -> None:
    context = Recorder(tmp_path)
    draw(context, steps=3)
    assert context.progress == [Progress("draw", step, 3) for step in range(4)]


def test_no_steps_give_a_picture_too(tmp_path: Path) -> None:
    assert draw(Recorder(tmp_path), steps=0).shape == (32, 48, 3)


def test_a_run_that_was_told_to_leave_goes_on_elsewhere_and_ends_with_the_same_picture(
    tmp_path: Path,
) -> None:
    leaving = Recorder(tmp_path / "1", stop_at=4, reason=StopReason.DRAINING)
    with pytest.raises(Stopped):
        draw(leaving)
    assert leaving.latest is not None
    resumed = Recorder(tmp_path / "2", resume=leaving.latest)
    assert np.array_equal(draw(resumed), draw(Recorder(tmp_path / "3")))
    assert [progress.step for progress in resumed.progress] == [3, 4, 5, 6]


def test_a_canceled_run_saves_nothing(tmp_path: Path) -> None:
    context = Recorder(tmp_path, stop_at=3)
    with pytest.raises(Stopped):
        draw(context)
    assert context.latest is None


def test_it_previews_as_often_as_asked(tmp_path: Path) -> None:
    context = Recorder(tmp_path)
    picture = draw(context, preview_every=2)
    assert len(context.previews) == 3
    assert np.array_equal(context.previews[-1].pixels, picture)


def test_it_fails_at_the_step_it_was_told(tmp_path: Path) -> None:
    context = Recorder(tmp_path)
    with pytest.raises(JobError, match="step 3"):
        draw(context, fail_at_step=3)
    assert context.progress[-1].step == 2
    with pytest.raises(JobError, match="step 0"):
        draw(context, fail_at_step=0)


def test_it_runs_out_of_memory_as_ordered(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory):
        draw(Recorder(tmp_path), oom_above=0)
    with pytest.raises(OutOfMemory):
        draw(Recorder(tmp_path), memory=1 << 50)
    draw(Recorder(tmp_path), oom_above=1, memory=1 << 20)


def test_it_kills_its_process_at_the_step_it_was_told(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from tests.engines.contexts import Recorder\n"
        "from tests.engines.test_fake import draw\n"
        "draw(Recorder(pathlib.Path(sys.argv[1])), crash_at_step=2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == -9


def test_the_metadata_make_the_picture_again(tmp_path: Path) -> None:
    [output] = FakeEngine().run(None, work(), Recorder(tmp_path)).outputs
    assert isinstance(output, Image)
    assert output.metadata == {
        "prompt": "a red apple",
        "seed": "7",
        "steps": "6",
        "width": "48",
        "height": "32",
    }


def test_it_draws_upon_a_picture_that_it_is_given(tmp_path: Path) -> None:
    below = draw(Recorder(tmp_path), seed=1)
    assert np.array_equal(draw(Recorder(tmp_path), image=PIL.Image.fromarray(below), steps=0), below)
    assert not np.array_equal(draw(Recorder(tmp_path), image=PIL.Image.fromarray(below)), below)


def test_so_many_attempts_fail_as_ordered_and_the_next_one_draws(tmp_path: Path) -> None:
    picture = draw(Recorder(tmp_path))
    flaky = work(fail_attempts=2)
    for attempt in (1, 2):
        with pytest.raises(JobError, match="fail_attempts") as failed:
            FakeEngine().run(None, replace(flaky, attempt=attempt), Recorder(tmp_path))
        assert failed.value.retryable
    [output] = FakeEngine().run(None, replace(flaky, attempt=3), Recorder(tmp_path)).outputs
    assert isinstance(output, Image) and np.array_equal(output.pixels, picture)
