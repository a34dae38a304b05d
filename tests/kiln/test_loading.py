"""Models are loaded beside the jobs that run."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from shared.catalog.entries.model import Model
from tests.kiln.studio import Studio
from tests.kiln.test_sharing import drawing, picture
from worker.engines.contract.engine import Context, Device, Result, Stopped, StopReason, Work
from worker.engines.fake.engine import FakeEngine
from worker.kiln.loading import DefaultFormats, Turns


class Heavy(FakeEngine):
    """Takes bytes, and is loaded when its gate is open. Its jobs note that they begin."""

    def __init__(self, nbytes: int, begun: list[str] | None = None) -> None:
        self.size = nbytes
        self.loading, self.gate = threading.Event(), threading.Event()
        self.begun = [] if begun is None else begun

    def load(self, model: Model, folder: Path | None, device: Device) -> None:
        self.loading.set()
        assert self.gate.wait(60)

    def nbytes(self, loaded: None) -> int:
        return self.size

    def run(self, loaded: None, work: Work, context: Context) -> Result:
        self.begun.append(work.input["prompt"])
        return super().run(loaded, work, context)


def weights(folder: Path, size: int) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(size))
    return folder


def test_loading_a_model_stalls_no_job_of_one_that_is_loaded(tmp_path: Path) -> None:
    heavy = Heavy(10)
    with Studio(tmp_path, FakeEngine()) as studio:
        picture(studio.submit(drawing(1)).wait())
        waiting = studio.submit(drawing(2), model="heavy", engine=heavy)
        assert heavy.loading.wait(30)
        for seed in range(3):
            picture(studio.submit(drawing(seed)).wait())
        assert waiting.outcome is None
        heavy.gate.set()
        picture(waiting.wait())
        assert set(studio.kiln.models) == {"m", "heavy"}


def test_models_of_the_same_name_are_told_apart_by_their_tenants(tmp_path: Path) -> None:
    heavy = Heavy(10)
    with Studio(tmp_path, FakeEngine()) as studio:
        picture(studio.submit(drawing(1), owner="ann").wait())
        waiting = studio.submit(drawing(2), owner="bob", engine=heavy)
        assert heavy.loading.wait(30)
        assert (studio.kiln.models, studio.kiln.loading) == (("ann/m",), "bob/m")
        heavy.gate.set()
        picture(waiting.wait())
        assert set(studio.kiln.models) == {"ann/m", "bob/m"}


def test_a_model_that_does_not_fit_beside_those_that_run_waits_and_is_not_overtaken(tmp_path: Path) -> None:
    begun: list[str] = []
    first, second = Heavy(80, begun), Heavy(50, begun)
    first.gate.set()
    second.gate.set()
    with Studio(tmp_path, FakeEngine(), budget=100) as studio:
        large, folder = weights(tmp_path / "first", 80), weights(tmp_path / "second", 50)
        endless = drawing(1, prompt="long", steps=100_000)
        long = studio.submit(endless, model="first", engine=first, folder=large)
        assert first.loading.wait(30)
        other = studio.submit(drawing(2, prompt="other"), model="second", engine=second, folder=folder)
        late = studio.submit(drawing(3, prompt="late"), model="first", engine=first, folder=large)
        assert not second.loading.wait(0.3)
        long.stop(StopReason.CANCELED)
        picture(other.wait())
        picture(late.wait())
        assert begun == ["long", "other", "late"]
        assert studio.kiln.memory["models"] <= 100


def test_nobody_computes_while_loading_changes_what_new_tensors_are_made_of() -> None:
    turns = Turns()

    def free() -> bool:
        if taken := turns._held.acquire(blocking=False):
            turns.release()
        return taken

    with DefaultFormats(turns):
        assert free()
        torch.set_default_dtype(torch.float16)
        assert not free()
        torch.set_default_dtype(torch.float32)
        assert free()
    with suppress(OSError), DefaultFormats(turns):
        torch.set_default_dtype(torch.float16)
        raise OSError("gone")
    assert free() and torch.get_default_dtype() is torch.float32


def test_whoever_waits_for_a_turn_gets_it_next() -> None:
    turns = Turns()
    order: list[str] = []
    turns.acquire()

    def wait_for_it() -> None:
        with turns:
            order.append("the one that waited")

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    while not turns._next.locked():
        pass
    turns.release()
    with turns:
        order.append("the one that had it")
    thread.join()
    assert order == ["the one that waited", "the one that had it"]


def test_a_load_that_fails_ends_the_jobs_that_waited_for_it_and_no_other(tmp_path: Path) -> None:
    class Broken(FakeEngine):
        def load(self, model: Model, folder: Path | None, device: Device) -> Any:
            raise OSError("the disk is gone")

    with Studio(tmp_path, FakeEngine()) as studio:
        bad = [studio.submit(drawing(seed), model="broken", engine=Broken()) for seed in range(2)]
        good = studio.submit(drawing(3))
        assert all(isinstance(one.wait().error, OSError) for one in bad)
        picture(good.wait())


def test_a_load_that_waits_for_whoever_computes_is_at_no_step_meanwhile() -> None:
    """Else a forward that takes long on a CPU would make the loader look as if it hung."""
    turns, waits = Turns(), threading.Event()
    over: list[bool] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        waits.set()
        yield
        over.append(True)

    def load() -> None:
        with DefaultFormats(turns, waiting):
            torch.set_default_dtype(torch.float16)
            torch.set_default_dtype(torch.float32)

    with turns:
        thread = threading.Thread(target=load)
        thread.start()
        assert waits.wait(30) and not over
    thread.join()
    assert over


def test_a_deadline_is_heard_while_a_model_loads_and_others_that_wait_for_it_get_it(tmp_path: Path) -> None:
    heavy = Heavy(10)
    with Studio(tmp_path, FakeEngine()) as studio:
        late = studio.submit(drawing(1), model="heavy", engine=heavy, timeout=0.2)
        other = studio.submit(drawing(2), model="heavy", engine=heavy, timeout=600)
        assert heavy.loading.wait(30)
        while not late.is_late:
            time.sleep(0.01)
        assert late.shall_stop is StopReason.DEADLINE
        outcome = late.wait()
        assert isinstance(outcome.error, Stopped) and outcome.error.reason is StopReason.DEADLINE
        assert other.outcome is None
        heavy.gate.set()
        picture(other.wait())


def test_waiting_for_the_first_turn_uses_up_no_time_out(tmp_path: Path) -> None:
    class Holding(FakeEngine):
        holds, goes_on = threading.Event(), threading.Event()

        def run(self, loaded: None, work: Work, context: Context) -> Result:
            self.holds.set()
            assert self.goes_on.wait(60)
            return Result()

    with Studio(tmp_path, FakeEngine()) as studio:
        picture(studio.submit(drawing(1)).wait())
        studio.submit(drawing(2), model="holding", engine=Holding())
        assert Holding.holds.wait(30)
        waits = studio.submit(drawing(3, steps=1), timeout=0.5)
        time.sleep(1.0)
        Holding.goes_on.set()
        picture(waits.wait())


def test_an_engine_thread_and_a_loader_tell_what_they_are_at(tmp_path: Path) -> None:
    heavy = Heavy(10)
    with Studio(tmp_path, FakeEngine()) as studio:
        kiln_job = studio.submit(drawing(1), model="heavy", engine=heavy)
        assert heavy.loading.wait(30)
        while len(steps := studio.kiln.steps()) != 1:  # the engine thread goes to sleep
            time.sleep(0.01)
        [step] = steps
        assert (step.what, step.jobs, step.blames) == ("loading a model", (kiln_job.order.work.job_id,), True)
        heavy.gate.set()
        picture(kiln_job.wait())
        while studio.kiln.steps():
            time.sleep(0.01)


_HALF_IMPORTED = """
import builtins, sys, threading
from worker.kiln.cpu_threads import claim_cores, imported_torch, use_one_core
from worker.kiln.loading import DefaultFormats, Turns

builtins.begun, builtins.goes_on = threading.Event(), threading.Event()
importing = threading.Thread(target=__import__, args=("torch",))
importing.start()
assert begun.wait(30) and "torch" in sys.modules
print(claim_cores(), imported_torch())
use_one_core()
with DefaultFormats(Turns()):
    pass
goes_on.set()
importing.join()
print(imported_torch().__name__)
"""


def test_a_torch_that_another_thread_has_only_begun_to_import_is_left_alone(tmp_path: Path) -> None:
    """As when the first job of a diffusion model is prepared while the engine thread computes others."""
    (tmp_path / "torch.py").write_text("begun.set(); goes_on.wait(30)")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{_HALF_IMPORTED}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split() == ["False", "None", "torch"], done.stderr
