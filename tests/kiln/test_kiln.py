"""The engine thread with real threads and engines that are plain Python."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.catalog.entries.model import Builtin, Model
from shared.errors import JobError, OutOfMemory, QanvasError
from worker.engines.contract.engine import (
    Context,
    Device,
    Image,
    Progress,
    Result,
    Stopped,
    StopReason,
    Work,
)
from worker.kiln import scheduler
from worker.kiln.kiln import Kiln
from worker.kiln.kiln_job import Checkpoint, KilnJob, Order, Outcome, Preview
from worker.kiln.policy import next_turn

Body = Callable[[Work, Context], Result]


@dataclass
class ScriptedEngine:
    """An engine whose jobs are functions, and that remembers what was loaded."""

    bodies: dict[str, Body] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    on_load: Callable[[str], None] = lambda model: None

    def load(self, model: Model, folder: Path | None, device: Device) -> str:
        self.loads.append(model.id)
        self.on_load(model.id)
        return model.id

    def nbytes(self, loaded: str) -> int:
        return self.sizes.get(loaded, 0)

    def run(self, loaded: str, work: Work, context: Context) -> Result:
        return self.bodies[work.job_id](work, context)


class Ears:
    def __init__(self) -> None:
        self.heard: list[Progress | str] = []
        self.begins = 0

    def begun(self) -> None:
        self.begins += 1

    def progress(self, progress: Progress) -> None:
        self.heard.append(progress)

    def token(self, text: str) -> None:
        self.heard.append(text)


class Bench:
    """A kiln, an engine and a way to submit a function as a job."""

    def __init__(self, folder: Path, budget: int = 1000, slots: int = 8) -> None:
        self.engine = ScriptedEngine()
        self.kiln = Kiln(Device(), budget, slots=slots)
        self.folder = folder
        self.ears = Ears()
        self._numbers = itertools.count()

    def submit(
        self,
        body: Body,
        *,
        model: str = "m",
        background: bool = False,
        timeout: float | None = None,
        resume: Path | None = None,
    ) -> KilnJob:
        job_id = f"job-{next(self._numbers)}"
        self.engine.bodies[job_id] = body
        order = Order(
            work=Work(job_id=job_id, task="t", input={}),
            model=Model(
                id=model, task="t", engine="e", source=Builtin(), input_schema={}, output="image/png"
            ),
            model_key=model,
            folder=None,
            engine=self.engine,
            scratch=self.folder / job_id,
            background=background,
            timeout=timeout,
            resume=resume,
        )
        return self.kiln.submit(order, self.ears)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.kiln.close(timeout=10)


def steps(count: int, log: list[str], name: str) -> Body:
    def body(work: Work, context: Context) -> Result:
        for step in range(count):
            log.append(name)
            context.boundary(Progress("step", step + 1, count))
        return Result(value={"name": name})

    return body


def forever(work: Work, context: Context) -> Result:
    while True:
        time.sleep(0.002)
        context.boundary()


def write(state: str) -> Callable[[Path], None]:
    def to(folder: Path) -> None:
        (folder / "state").write_text(state)

    return to


def error_of(outcome: Outcome) -> BaseException:
    assert outcome.error is not None
    return outcome.error


def test_a_job_gives_its_result_and_tells_its_steps(bench: Bench) -> None:
    outcome = bench.submit(steps(3, [], "a")).wait()
    assert outcome.result == Result(value={"name": "a"})
    assert bench.ears.heard == [
        Progress("load", 0),
        Progress("ready", 0),
        Progress("step", 1, 3),
        Progress("step", 2, 3),
        Progress("step", 3, 3),
    ]


def test_only_one_thread_computes_at_any_time(bench: Bench) -> None:
    inside = threading.Lock()

    def body(work: Work, context: Context) -> Result:
        for _ in range(50):
            assert inside.acquire(blocking=False), "two jobs compute at once"
            time.sleep(0.0001)
            inside.release()
            context.boundary()
        return Result()

    kiln_jobs = [bench.submit(body, background=number % 2 == 0) for number in range(6)]
    assert [kiln_job.wait().error for kiln_job in kiln_jobs] == [None] * 6


def test_pictures_run_one_after_the_other_and_training_between_their_steps(bench: Bench) -> None:
    log: list[str] = []
    gate = threading.Event()

    def opener(work: Work, context: Context) -> Result:
        gate.wait(10)
        return Result()

    first = bench.submit(opener)
    training = bench.submit(steps(400, log, "training"), background=True)
    pictures = [bench.submit(steps(200, log, name)) for name in ("a", "b")]
    gate.set()
    for kiln_job in (first, training, *pictures):
        assert kiln_job.wait().error is None
    drawn = [name for name in log if name != "training"]
    assert drawn == ["a"] * 200 + ["b"] * 200
    assert "training" in log[: log.index("b")], "training starves while pictures are drawn"


def test_a_canceled_job_ends_at_its_next_boundary_and_others_go_on(bench: Bench) -> None:
    canceled, other = bench.submit(forever), bench.submit(steps(3, [], "other"))
    time.sleep(0.05)
    canceled.stop(StopReason.CANCELED)
    error = error_of(canceled.wait())
    assert isinstance(error, Stopped) and error.reason is StopReason.CANCELED
    assert other.wait().error is None


def test_a_job_canceled_while_it_waits_never_starts(bench: Bench) -> None:
    log: list[str] = []
    running, waiting = bench.submit(forever), bench.submit(steps(1, log, "waiting"))
    waiting.stop(StopReason.CANCELED)
    assert isinstance(waiting.wait().error, Stopped)
    running.stop(StopReason.CANCELED)
    assert log == []


def test_a_job_canceled_while_its_model_is_loaded_ends_at_once_and_the_model_is_there_for_the_next(
    bench: Bench,
) -> None:
    loading, gate = threading.Event(), threading.Event()

    def on_load(model: str) -> None:
        loading.set()
        assert gate.wait(30)

    bench.engine.on_load = on_load
    log: list[str] = []
    canceled, next_one = bench.submit(steps(1, log, "canceled")), bench.submit(steps(1, log, "next"))
    assert loading.wait(10)
    canceled.stop(StopReason.CANCELED)
    assert isinstance(canceled.wait().error, Stopped), "it waited for the model"
    assert not gate.is_set()
    gate.set()
    assert next_one.wait().error is None
    assert bench.engine.loads == ["m"] and log == ["next"]


def test_a_lost_lease_counts_more_than_a_cancel_or_a_drain(bench: Bench) -> None:
    began, gate = threading.Event(), threading.Event()

    def body(work: Work, context: Context) -> Result:
        began.set()
        gate.wait(10)
        context.boundary()
        return Result()

    kiln_job = bench.submit(body)
    assert began.wait(10)
    for reason in (StopReason.DRAINING, StopReason.LOST, StopReason.CANCELED):
        kiln_job.stop(reason)
    gate.set()
    error = error_of(kiln_job.wait())
    assert isinstance(error, Stopped) and error.reason is StopReason.LOST


def test_a_deadline_ends_a_job_in_time(bench: Bench) -> None:
    began = time.monotonic()
    error = error_of(bench.submit(forever, timeout=0.2).wait())
    assert isinstance(error, Stopped) and error.reason is StopReason.DEADLINE
    assert 0.2 <= time.monotonic() - began < 20


@pytest.mark.parametrize(("slots", "full"), [(3, True), (6, False)])
def test_throughput_counts_once_two_thirds_of_the_slots_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int, full: bool
) -> None:
    seen: list[bool] = []

    def noted(*given: Any, full: bool) -> Any:
        seen.append(full)
        return next_turn(*given, full=full)

    monkeypatch.setattr(scheduler, "next_turn", noted)
    bench, gate = Bench(tmp_path, slots=slots), threading.Event()

    def first(work: Work, context: Context) -> Result:
        gate.wait(30)
        context.boundary()
        return Result()

    jobs = [bench.submit(first), bench.submit(steps(3, [], "b"))]
    gate.set()
    assert [job.wait().error for job in jobs] == [None, None]
    bench.kiln.close(timeout=10)
    assert set(seen) == {full}


def test_a_library_that_swallows_exceptions_cannot_swallow_a_stop(bench: Bench) -> None:
    def body(work: Work, context: Context) -> Result:
        while True:
            try:
                context.boundary()
            except Exception:  # noqa: BLE001 - as libraries do
                continue

    kiln_job = bench.submit(body)
    kiln_job.stop(StopReason.CANCELED)
    assert isinstance(kiln_job.wait().error, Stopped)


def test_a_job_that_raises_fails_alone_and_its_traceback_is_kept_as_text(bench: Bench) -> None:
    def body(work: Work, context: Context) -> Result:
        raise JobError("the brush broke")

    bad, good = bench.submit(body), bench.submit(steps(2, [], "good"))
    outcome = bad.wait()
    assert isinstance(outcome.error, JobError)
    assert outcome.error.__traceback__ is None
    assert outcome.trace is not None and "the brush broke" in outcome.trace and "in body" in outcome.trace
    assert good.wait().error is None


def test_a_model_is_loaded_once_for_many_jobs(bench: Bench) -> None:
    for _ in range(3):
        bench.submit(steps(1, [], "a")).wait()
    assert bench.engine.loads == ["m"]


def test_models_beyond_the_budget_are_evicted_least_recently_used_first(bench: Bench) -> None:
    bench.engine.sizes = {"a": 400, "b": 400, "c": 400}
    for model in ("a", "b", "a", "c", "a", "b"):
        bench.submit(steps(1, [], model), model=model).wait()
    assert bench.engine.loads == ["a", "b", "c", "b"]
    assert bench.kiln.memory == {"budget": 1000, "models": 800}


def test_loading_that_runs_out_of_memory_is_tried_again_without_idle_models(bench: Bench) -> None:
    bench.engine.sizes = {"small": 100, "large": 900}
    bench.submit(steps(1, [], "small"), model="small").wait()
    failures = iter([OutOfMemory("no room")])

    def on_load(model: str) -> None:
        for error in failures:
            raise error

    bench.engine.on_load = on_load
    assert bench.submit(steps(1, [], "large"), model="large").wait().error is None
    assert bench.engine.loads == ["small", "large", "large"]
    assert bench.kiln.models == ("large",)


def test_loading_that_runs_out_of_memory_twice_fails_the_job(bench: Bench) -> None:
    def on_load(model: str) -> None:
        raise OutOfMemory("no room")

    bench.engine.on_load = on_load
    assert isinstance(bench.submit(steps(1, [], "a")).wait().error, OutOfMemory)


def test_previews_and_checkpoints_reach_the_reader_in_order(bench: Bench) -> None:
    image = Image(pixels=np.zeros((2, 2, 3), np.uint8))

    def body(work: Work, context: Context) -> Result:
        for number in range(2):
            context.preview(image)
            context.checkpoint(write(str(number)))
        return Result()

    notices = list(bench.submit(body).notices())
    assert [type(notice) for notice in notices] == [Preview, Checkpoint, Preview, Checkpoint]
    folders = [notice.folder for notice in notices if isinstance(notice, Checkpoint)]
    assert [(folder / "state").read_text() for folder in folders] == ["0", "1"]


def test_a_job_may_save_a_checkpoint_while_it_is_told_to_leave(bench: Bench) -> None:
    started = threading.Event()

    def body(work: Work, context: Context) -> Result:
        started.set()
        try:
            return forever(work, context)
        except Stopped:
            context.checkpoint(write("half"))
            raise

    kiln_job = bench.submit(body)
    assert started.wait(5)
    kiln_job.stop(StopReason.DRAINING)
    [notice] = kiln_job.notices()
    assert isinstance(notice, Checkpoint) and (notice.folder / "state").read_text() == "half"
    assert kiln_job.outcome is not None and isinstance(kiln_job.outcome.error, Stopped)


def test_a_closed_kiln_takes_no_more_jobs(bench: Bench) -> None:
    bench.kiln.close(timeout=5)
    with pytest.raises(QanvasError, match="leaving"):
        bench.submit(steps(1, [], "late"))


def test_job_threads_are_used_again(bench: Bench) -> None:
    names: set[str] = set()

    def body(work: Work, context: Context) -> Result:
        names.add(threading.current_thread().name)
        return Result()

    for _ in range(5):
        bench.submit(body).wait()
    assert len(names) == 1


def test_a_job_whose_checkpoint_cannot_be_read_is_computed_from_the_start(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given: list[Path | None] = []

    def body(work: Work, context: Context) -> Result:
        context.boundary()
        given.append(context.resume)
        if context.resume is not None:
            (context.resume / "lost").read_text()
        context.boundary()
        return Result(value={"done": True})

    assert bench.submit(body, resume=tmp_path).wait().result == Result(value={"done": True})
    assert given == [tmp_path, None]
    assert "the checkpoint of job-0 cannot be read, it starts anew: FileNotFoundError" in caplog.text


@pytest.mark.parametrize("error", [JobError("bad step"), OutOfMemory("out of memory")])
def test_a_job_that_fails_after_its_checkpoint_was_read_is_not_computed_twice(
    bench: Bench, tmp_path: Path, error: JobError
) -> None:
    runs: list[Path | None] = []

    def body(work: Work, context: Context) -> Result:
        runs.append(context.resume)
        if not isinstance(error, OutOfMemory):  # which may be met while the checkpoint is read
            context.boundary()
        raise error

    assert error_of(bench.submit(body, resume=tmp_path).wait()) is error
    assert runs == [tmp_path]
