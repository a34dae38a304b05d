"""What jobs compute, they compute on the engine thread; their own threads have one core."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from shared.catalog.entries.model import Model
from shared.errors import OutOfMemory
from tests.engines import pipelines
from tests.engines.test_tasks import load
from tests.kiln.studio import Studio
from worker.engines.batching.patches import install, removed, taking_part
from worker.engines.contract.engine import Context, Device, Result, Work
from worker.engines.placement.offload import parts_of
from worker.kiln.cpu_threads import spin_briefly


class Calling:
    """An engine whose jobs call the function in their input with their context."""

    def load(self, model: Model, folder: Path | None, device: Device) -> None: ...

    def nbytes(self, loaded: None) -> int:
        return 0

    def run(self, loaded: None, work: Work, context: Context) -> Result:
        call: Callable[[Context], Any] = work.input["call"]
        return Result(value={"value": call(context)})


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    with Studio(tmp_path, Calling()) as opened:
        yield opened


def called(studio: Studio, call: Callable[[Context], Any]) -> Any:
    outcome = studio.submit({"call": call}).wait()
    assert outcome.result is not None and outcome.result.value is not None, outcome.trace
    return outcome.result.value["value"]


def here() -> str:
    return threading.current_thread().name


def test_work_is_computed_on_the_engine_thread_and_its_answer_comes_back(studio: Studio) -> None:
    assert called(studio, lambda context: (here(), context.compute(here), here())) == (
        "job-1",
        "kiln",
        "job-1",
    )


def test_what_work_raises_the_job_gets(studio: Studio) -> None:
    def fails() -> None:
        raise KeyError("this one")

    def caught(context: Context) -> str:
        with pytest.raises(KeyError, match="this one"):
            context.compute(fails)
        return here()

    assert called(studio, caught) == "job-1"


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_work_whose_memory_runs_out_is_not_computed_twice_and_says_what_it_did(
    studio: Studio, error: Exception
) -> None:
    tried = []

    def large() -> None:
        tried.append(here())
        raise error

    outcome = studio.submit({"call": lambda context: context.compute(large, "growing a tree")}).wait()
    assert isinstance(outcome.error, OutOfMemory)
    assert "while growing a tree" in outcome.error.message
    assert tried == ["kiln"]


def test_the_engine_thread_has_all_cores_and_every_other_thread_one(studio: Studio) -> None:
    def elsewhere() -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    def counted(context: Context) -> tuple[int, int, int]:
        return context.compute(torch.get_num_threads), torch.get_num_threads(), elsewhere()

    engine, own, others = called(studio, counted)
    assert (own, others) == (1, 1)
    with Studio(Path("unused"), Calling()) as second:  # all cores are known, though one was set for all
        assert called(second, counted) == (engine, 1, 1)


def test_helpers_spin_briefly_unless_the_operator_says_how_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    spin_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    spin_briefly()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_every_part_of_a_pipeline_computes_on_the_engine_thread_declared_or_not(
    studio: Studio, tmp_path: Path
) -> None:
    pipe = load(pipelines.save("sd", tmp_path)).pipeline("image-to-image")
    seen: dict[str, set[str]] = {}

    def note(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            seen.setdefault(name, set()).add(here())
            return real(*args, **kwargs)

        return noted

    with removed(pipe):
        for name, part in parts_of(pipe):
            for method in ("forward", "encode", "decode"):
                if hasattr(part, method):
                    vars(part)[method] = note(f"{name}.{method}", getattr(part, method))
    install(pipe)

    def draw(context: Context) -> None:
        with taking_part(context):
            pipe("a red apple", image=PIL.Image.new("RGB", (16, 16)), num_inference_steps=4)

    called(studio, draw)
    assert set(seen) >= {"text_encoder.forward", "unet.forward", "vae.encode", "vae.decode"}
    assert set().union(*seen.values()) == {"kiln"}, seen
