"""The worker's parts one by one: files in, files out, and what is cleaned up."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tokenizers import Tokenizer

from shared.catalog.builtin import starter_folder
from shared.catalog.catalog import Catalog
from shared.catalog.families import engines
from shared.errors import (
    ConfigurationError,
    InvalidInput,
    JobError,
    ModelUnavailable,
    NotFound,
    OutOfMemory,
    QanvasError,
    Unavailable,
)
from shared.files.store import FileStore, NewFile
from shared.jobs.entities import Finish, Job, NewJob, NewOutput, Succeeded
from tests.engines.test_train_diffusion import squares
from tests.receivers import Answer, Request, receiving
from tests.worker.conftest import Shop
from worker.attempts.completer import _failure
from worker.attempts.preparer import Preparer
from worker.attempts.scratch import Scratch
from worker.engines.contract.engine import Image, Progress, Stopped, StopReason
from worker.engines.registry import engine_named
from worker.inputs.datasets import Text
from worker.kiln.devices import find_device, memory_budget
from worker.kiln.kiln_job import Order
from worker.media.png import encode_png

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def folder_of(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_a_picture_keeps_its_pixels_and_its_origin_in_any_alphabet() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    image = Image(pixels=pixels, metadata={"prompt": "ein grüner Apfel 🍏", "seed": "7"})
    read = PIL.Image.open(io.BytesIO(encode_png(image, {"model": "fake"})))
    assert np.array_equal(np.asarray(read), pixels)
    assert read.info == {"prompt": "ein grüner Apfel 🍏", "seed": "7", "model": "fake"}


class TestScratch:
    def test_what_an_attempt_wrote_is_removed(self, tmp_path: Path) -> None:
        scratch = Scratch(tmp_path / "scratch", "wrk_1")
        scratch.of("job_1", 1).mkdir()
        (scratch.of("job_1", 1) / "file").touch()
        scratch.remove("job_1", 1)
        scratch.remove("job_2", 1)
        assert not scratch.of("job_1", 1).exists()
        scratch.close()
        assert list((tmp_path / "scratch").iterdir()) == []

    def test_what_a_dead_worker_left_is_removed_and_a_living_ones_is_not(self, tmp_path: Path) -> None:
        program = (
            "import sys, time, pathlib; from worker.attempts.scratch import Scratch\n"
            "s = Scratch(pathlib.Path(sys.argv[1]), 'wrk_other'); s.of('job_1', 1).mkdir()\n"
            "print('there', flush=True); time.sleep(60)"
        )
        root = tmp_path / "scratch"
        other = subprocess.Popen(
            [sys.executable, "-c", program, str(root)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        try:
            assert other.stdout is not None and other.stdout.readline() == b"there\n"
            Scratch(root, "wrk_1").close()
            assert (root / "wrk_other").exists()
        finally:
            other.kill()
            other.wait()
        Scratch(root, "wrk_2").close()
        assert list(root.iterdir()) == []

    @pytest.mark.parametrize(
        ("left", "suspects"),
        [
            ("s.begin('a', 1); s.computed('a', 1); s.begin('b', 1)", {"b"}),
            ("s.begin('a', 1); s.computed('a', 1)", {"a"}),
            ("s.begin('a', 1); s.remove('a', 1)", set()),
            # what an attempt that was lost leaves behind says nothing of the next one of the job
            ("s.begin('a', 1); s.begin('a', 2); s.remove('a', 1)", {"a"}),
            ("(s._folder / 'begun-a').touch()", {"a"}),  # as before marks told the attempt
        ],
    )
    def test_what_was_computed_and_only_had_to_be_stored_is_no_suspect_beside_what_computes(
        self, tmp_path: Path, left: str, suspects: set[str]
    ) -> None:
        program = (
            "import os, sys, pathlib; from worker.attempts.scratch import Scratch\n"
            f"s = Scratch(pathlib.Path(sys.argv[1]), 'wrk_dead'); {left}; os._exit(9)"
        )
        root = tmp_path / "scratch"
        command = [sys.executable, "-c", program, str(root)]
        assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == 9
        found = Scratch(root, "wrk_2")
        assert found.dead == {"wrk_dead": suspects}
        found.close()

    def test_a_note_that_cannot_be_written_stops_nobody(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is written on the engine thread, without which the worker would hang."""
        scratch = Scratch(tmp_path / "scratch", "wrk_1")
        (tmp_path / "scratch" / "wrk_1").rename(tmp_path / "away")
        scratch.begin("job_1", 1)
        scratch.computed("job_1", 1)
        scratch.remove("job_1", 1)
        assert "job_1: not noted as begun" in caplog.text
        with pytest.raises(Unavailable, match="the scratch folder cannot be written"):
            scratch.check_writable()

    def test_a_scratch_folder_that_cannot_be_made_says_what_to_do(self, tmp_path: Path) -> None:
        (tmp_path / "scratch").write_text("no folder")
        with pytest.raises(Unavailable, match="QANVAS_DATA"):
            Scratch(tmp_path / "scratch", "wrk_1")


def text_of(order: Order) -> str:
    """The text of a job of ``train-text``."""
    dataset: Text = order.work.input["dataset"]
    return Tokenizer.from_str(dataset.tokenizer).decode(dataset.tokens.tolist())


class TestPreparer:
    @pytest.fixture
    def preparer(self, shop: Shop) -> Preparer:
        return Preparer(shop.settings, shop.catalog, shop.storage, FileStore(shop.database), shop.jobs)

    def job(self, shop: Shop, dataset: object) -> Job:
        return shop.jobs.get(shop.submit([shop.new(model="train-text", dataset=dataset, name="mine")])[0])

    @one_database
    def test_a_data_uri_becomes_a_local_file(self, shop: Shop, preparer: Preparer, tmp_path: Path) -> None:
        uri = "data:text/plain;base64," + base64.b64encode(b"hello").decode()
        order = preparer.order(self.job(shop, uri), tmp_path / "s", lambda progress: None)
        assert text_of(order) == "hello"
        assert order.background

    @one_database
    def test_a_url_becomes_a_local_file_that_is_what_its_content_is(self, shop: Shop, tmp_path: Path) -> None:
        shop.settings = shop.settings.with_(input_allow_private=True)
        told: list[Progress] = []
        with receiving(lambda number, request: Answer(body=b"hello")) as server:
            job = self.job(shop, f"{server.url}/corpus.exe")
            order = Preparer(
                shop.settings, shop.catalog, shop.storage, FileStore(shop.database), shop.jobs
            ).order(job, tmp_path / "s", told.append)
        local = tmp_path / "s" / "inputs" / "dataset.txt"
        assert local.read_bytes() == b"hello" and text_of(order) == "hello"
        assert told[0].stage == "fetch"

    @one_database
    def test_a_job_that_is_stopped_while_its_file_comes_waits_no_longer(
        self, shop: Shop, tmp_path: Path
    ) -> None:
        shop.settings = shop.settings.with_(input_allow_private=True)
        ended = threading.Event()

        def hang(number: int, request: Request) -> Answer:
            ended.wait(60)
            return Answer()

        def give_up(file: Future[Path | None]) -> Path | None:
            server.wait_for(1)
            raise Stopped(StopReason.CANCELED)

        preparer = Preparer(shop.settings, shop.catalog, shop.storage, FileStore(shop.database), shop.jobs)
        with receiving(hang) as server:
            with pytest.raises(Stopped):
                preparer.order(self.job(shop, server.url), tmp_path / "s", lambda progress: None, give_up)
            ended.set()

    @one_database
    def test_an_uploaded_file_becomes_a_local_file_that_keeps_its_suffix(
        self, shop: Shop, preparer: Preparer, tmp_path: Path
    ) -> None:
        stored = shop.storage.write("files/abc", b"hello")
        file = FileStore(shop.database).add(
            NewFile(
                tenant="default",
                filename="corpus.txt",
                purpose="dataset",
                media_type="text/plain",
                bytes=stored.bytes,
                sha256=stored.sha256,
                key=stored.key,
            )
        )
        order = preparer.order(self.job(shop, file.id), tmp_path / "s", lambda progress: None)
        path = tmp_path / "s" / "inputs" / "dataset.txt"
        assert path.read_bytes() == b"hello" and text_of(order) == "hello"

    @one_database
    def test_a_file_that_was_deleted_says_so(self, shop: Shop, preparer: Preparer, tmp_path: Path) -> None:
        job = self.job(shop, "file_01M85GJF26S6369KB8A9AWPGM3")
        with pytest.raises(JobError, match="upload it again") as caught:
            preparer.order(job, tmp_path / "s", lambda progress: None)
        assert caught.value.type == "invalid-input"

    @one_database
    def test_an_output_of_another_job_becomes_a_local_file(
        self, shop: Shop, preparer: Preparer, tmp_path: Path
    ) -> None:
        made = shop.submit([shop.new()], tickets=False)[0]
        [claimed] = shop.leases.claim("wrk_1", "default")
        stored = shop.storage.write(f"outputs/{made}/1/0.txt", b"hello")
        output = NewOutput(index=0, media_type="text/plain", bytes=5, sha256=stored.sha256, key=stored.key)
        shop.leases.finish([Finish(made, claimed.attempt, Succeeded(outputs=(output,)))])
        job = self.job(shop, {"job": made, "output": 0})
        order = preparer.order(job, tmp_path / "s", lambda progress: None)
        assert text_of(order) == "hello"
        for output_index, said in ((1, "has no output 1: it made 1"), (0, "deleted")):
            if said == "deleted":
                shop.jobs.cancel(job.id)
                shop.jobs.delete(made)
            job = self.job(shop, {"job": made, "output": output_index})
            with pytest.raises(JobError, match=said) as caught:
                preparer.order(job, tmp_path / "s", lambda progress: None)
            assert caught.value.type == "invalid-input"


class TestPicturesAndAdapters:
    CATALOG = """
    [models.painter]
    task = "text-to-image"
    tasks = ["image-to-image"]
    folder = "painter"
    controlnet = { folder = "edges" }
    loras.ink = { folder = "ink" }
    loras.both = { folder = "both" }
    """

    @pytest.fixture
    def preparer(self, shop: Shop, tmp_path: Path) -> Preparer:
        for name in ("painter/unet/a", "edges/a", "ink/a", "both/a", "both/b"):
            path = tmp_path / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "catalog.toml").write_text(self.CATALOG)
        shop.settings = shop.settings.with_(catalog=tmp_path / "catalog.toml")
        shop.catalog = Catalog(shop.settings, shop.database)
        return Preparer(shop.settings, shop.catalog, shop.storage, FileStore(shop.database), shop.jobs)

    def order(self, shop: Shop, preparer: Preparer, scratch: Path, task: str, **given: object) -> Order:
        picture = PIL.Image.new("RGB", (300, 200), (255, 0, 0))
        file = io.BytesIO()
        picture.save(file, "PNG")
        uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        model = shop.catalog.resolve("painter", task)
        given = {"prompt": "a", "control_image": uri, **given}
        if task == "image-to-image":
            given["image"] = uri
        new = NewJob(
            tenant="default",
            task=model.task,
            model=model.id,
            queue=model.queue,
            input=shop.catalog.check_input(model, given),
        )
        [job_id] = shop.submit([new], tickets=False)
        return preparer.order(shop.jobs.get(job_id), scratch, lambda progress: None)

    @one_database
    def test_pictures_come_opened_and_of_the_jobs_size(
        self, shop: Shop, preparer: Preparer, tmp_path: Path
    ) -> None:
        given = self.order(shop, preparer, tmp_path / "s", "image-to-image").work.input
        assert (given["width"], given["height"]) == (304, 200)
        for name in ("image", "control_image"):
            assert (given[name].mode, given[name].size) == ("RGB", (304, 200))

    @one_database
    def test_adapters_and_the_controlnet_come_as_paths_and_tasks_share_one_loaded_model(
        self, shop: Shop, preparer: Preparer, tmp_path: Path
    ) -> None:
        loras = [{"name": "ink", "weight": 0.5}]
        order = self.order(shop, preparer, tmp_path / "s", "text-to-image", loras=loras)
        path = str(tmp_path / "ink" / "a.safetensors")
        assert order.work.input["loras"] == [{"name": "ink", "weight": 0.5, "path": path}]
        assert order.model.options["controlnet"] == str(tmp_path / "edges")
        other = self.order(shop, preparer, tmp_path / "t", "image-to-image")
        assert (other.model.task, other.model_key) == ("image-to-image", order.model_key)

    @one_database
    def test_an_adapter_of_two_files_is_refused_with_the_cure(
        self, shop: Shop, preparer: Preparer, tmp_path: Path
    ) -> None:
        with pytest.raises(ModelUnavailable, match=r"LoRA both has 2 files of weights .* leave one there"):
            self.order(shop, preparer, tmp_path / "s", "text-to-image", loras=[{"name": "both"}])


@one_database
def test_what_a_training_goes_on_from_comes_as_a_folder_and_is_looked_at_once_more(
    shop: Shop, tmp_path: Path
) -> None:
    files = FileStore(shop.database)
    preparer = Preparer(shop.settings, shop.catalog, shop.storage, files, shop.jobs)
    uri = "data:application/zip;base64," + base64.b64encode(squares(tmp_path).read_bytes()).decode()
    given = {"dataset": uri, "name": "mine", "base_model": "starter-image"}
    new = shop.new(model="train-diffusion", **given)
    gone = replace(new, input={**new.input, "base_model": "replaced-by-no-model"})
    first, second = (shop.jobs.get(job_id) for job_id in shop.submit([new, gone], tickets=False))
    order = preparer.order(first, tmp_path / "a", lambda progress: None)
    path = str(starter_folder("image"))
    assert order.work.input["base_model"] == {"name": "starter-image", "path": path}
    with pytest.raises(InvalidInput, match="/input/base_model: there is no such model"):
        preparer.order(second, tmp_path / "b", lambda progress: None)


@pytest.mark.parametrize("name", list(engines()))
def test_every_engine_of_the_registry_is_there(name: str) -> None:
    assert callable(engine_named(name).load) and callable(engine_named(name).run)
    assert engine_named(name) is engine_named(name)


def test_an_unknown_engine_names_those_there_are() -> None:
    with pytest.raises(ModelUnavailable, match="diffusion"):
        engine_named("oil-on-canvas")


def test_a_device_that_is_not_there_names_those_that_are() -> None:
    for name in ("cuda:99", "abacus", "cpu:1"):
        with pytest.raises(ConfigurationError, match="cpu"):
            find_device(name)


def test_the_budget_is_what_the_operator_says_or_part_of_the_memory() -> None:
    device = find_device("cpu")
    assert memory_budget(device, 123) == 123
    assert 0 < memory_budget(device, 0) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_job_that_could_not_be_stored_does_not_say_where() -> None:
    failed = _failure(Unavailable("the storage cannot be written", "/srv/files: no space left"), "trace")
    assert failed.message == "the storage cannot be written; the server's log says why" and failed.retryable


@pytest.mark.parametrize(
    ("error", "kind", "said", "again"),
    [
        (JobError("the loss became nan"), "internal", "the loss became nan", False),
        (
            OutOfMemory("out of memory (4x8x8, 6 rows)"),
            "out-of-memory",
            "out of memory (4x8x8, 6 rows)",
            True,
        ),
        (InvalidInput.at("/input/mask", "is empty"), "invalid-input", "/input/mask: is empty", False),
        (NotFound("stored file", "files/a"), "internal", "NotFound: no stored file 'files/a'", False),
    ],
)
def test_an_error_that_was_made_for_users_reaches_them_as_it_is(
    error: QanvasError, kind: str, said: str, again: bool
) -> None:
    failed = _failure(error, "trace")
    assert (failed.type, failed.message, failed.retryable) == (kind, said, again)
