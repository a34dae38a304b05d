"""Every call of the client, without and with asyncio, against a real API and a real worker."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import qanvas
from shared.settings import Settings
from tests.client.conftest import Face

pytestmark = pytest.mark.slow


def test_run_waits_for_the_picture_and_saves_it(client: Face, tmp_path: Path) -> None:
    job = client.run("fake", prompt="a red apple", seed=7, steps=3)
    assert (job.status, job.is_terminal, job.input["seed"]) == ("succeeded", True, 7)
    [output] = job.outputs
    assert (output.media_type, output.width) == ("image/png", job.input["width"])
    path = client.of(output, "save", tmp_path / "apple.png")
    assert path.read_bytes() == client.of(output, "read")
    assert Image.open(path).size == (output.width, output.height)
    assert [one.name for one in tmp_path.iterdir()] == ["apple.png"]


def test_the_module_runs_a_job_on_the_server_of_the_environment(
    server: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QANVAS_URL", f"http://127.0.0.1:{server.port}")
    picture = qanvas.run("fake", prompt="a red apple").outputs[0].save(tmp_path / "apple.png")
    assert Image.open(picture).format == "PNG"


def test_options_go_beside_the_input_and_a_job_is_looked_up_waited_for_and_deleted(client: Face) -> None:
    options: qanvas.Options = {"priority": 9, "group": "g-options", "metadata": {"who": "ann"}}
    job = client.submit("fake", {"prompt": "x", "steps": 1}, options=options)
    assert (job.priority, job.group, job.metadata) == (9, "g-options", {"who": "ann"})
    job = client.of(job, "wait", 60)
    assert job.status == client.of(job, "refresh").status == client.job(job.id).status == "succeeded"
    assert client.of(job, "wait").id == job.id
    assert client.group("g-options").counts == {"succeeded": 1}
    client.of(job, "delete")
    with pytest.raises(qanvas.NotFound):
        client.job(job.id)


def test_a_job_that_takes_longer_than_the_caller_waits_goes_on_and_is_canceled(client: Face) -> None:
    job = client.submit("fake", prompt="x", steps=50, step_seconds=0.5)
    with pytest.raises(qanvas.WaitTimeout) as caught:
        client.of(job, "wait", 0.3)
    assert caught.value.job.id == job.id
    client.of(job, "cancel")
    job = client.of(job, "wait", 60)
    assert job.status == "canceled"
    with pytest.raises(qanvas.Conflict):
        client.cancel(job.id)


def test_a_failed_job_raises_and_its_dead_letter_is_retried(client: Face) -> None:
    with pytest.raises(qanvas.JobFailed) as caught:
        client.run(
            "fake",
            prompt="x",
            steps=3,
            fail_at_step=1,
            options={"group": f"dead-{id(client)}", "max_attempts": 1},
        )
    job = caught.value.job
    assert job.status == "failed" and job.error is not None and job.error.message in str(caught.value)
    assert [one.how for one in client.attempts(job.id)] == ["failed"]
    [letter] = client.dead_letters(group=job.group)
    assert (letter.job.id, letter.retried_as, len(letter.attempts)) == (job.id, None, 1)
    [retried] = client.retry_dead_letters(group=job.group)
    assert (retried.job, retried.detail) == (job.id, None)
    assert client.of(client.job(retried.retried_as), "wait", 60).metadata["retry_of"] == job.id


def test_an_ended_job_is_retried_as_a_new_one(client: Face) -> None:
    job = client.run("fake", prompt="x", steps=1)
    again = client.of(job, "retry")
    assert again.id != job.id and again.metadata["retry_of"] == job.id
    assert client.retry(job.id).id not in (job.id, again.id)


def test_many_jobs_are_submitted_listed_over_pages_and_canceled_together(client: Face) -> None:
    group = f"many-{id(client)}"
    body = {"model": "fake", "group": group, "input": {"prompt": "x", "steps": 50, "step_seconds": 0.5}}
    made = client.submit_many([body] * 5)
    found = client.jobs(group=group, page=2)
    assert sorted(one.id for one in found) == sorted(one.id for one in made)
    assert [one.id for one in found] == [one.id for one in client.jobs(group=group, page=100)]
    assert sum(client.cancel_group(group).counts.values()) == 5
    for one in made:
        assert client.of(one, "wait", 60).status == "canceled"


def test_events_come_in_order_from_the_beginning_and_from_the_middle(client: Face) -> None:
    job = client.submit("fake", prompt="x", steps=4, step_seconds=0.05)
    events = client.of(job, "events")
    kinds = [event.type for event in events]
    assert kinds[0] == "status" and kinds[-1] == "done" and "progress" in kinds
    assert events[-1].data["status"] == "succeeded"
    again = client.events(job.id, after=events[1].id)
    assert [event.id for event in again] == [event.id for event in events[2:]]
    assert client.events(job.id, after=events[-1].id) == []
    assert client.of(job, "tokens") == []


def test_previews_are_pictures(client: Face) -> None:
    job = client.submit("fake", prompt="x", steps=6, step_seconds=0.2, preview_every=1)
    pictures = client.of(job, "previews")
    assert pictures
    for picture in pictures:
        assert Image.open(io.BytesIO(picture)).format == "PNG"
    with pytest.raises(qanvas.NotFound):
        client.preview("job_" + "0" * 26)


def test_models_workers_and_queues_are_listed(client: Face) -> None:
    model = client.model("fake")
    assert model.task == "text-to-image" and "prompt" in model.input_schema["properties"]
    assert model.id in [one.id for one in client.models()]
    [worker] = client.workers()
    assert worker.slots > 0
    assert "default" in [one.name for one in client.queues()]


def test_files_are_uploaded_from_paths_bytes_and_file_objects(client: Face, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"some bytes")
    with path.open("rb") as opened:
        made = [client.upload(source) for source in (path, b"some bytes", opened)]
    assert [one.filename for one in made] == ["notes.txt", "file", "notes.txt"]
    for one in made:
        assert client.read_file(one.id) == b"some bytes"
        assert client.file(one.id) == one
        assert one.id in [each.id for each in client.files(purpose="input")]
        client.delete_file(one.id)
    with pytest.raises(qanvas.NotFound):
        client.file(made[0].id)


def test_a_large_file_is_streamed(client: Face, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(20_000_000))
    tracemalloc.start()
    try:
        file = client.upload(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.bytes == 20_000_000
    assert peak < 5_000_000
    client.delete_file(file.id)


def test_files_in_an_input_are_uploaded_in_place(client: Face) -> None:
    """The server names the field that the model does not have; the files have arrived by then."""
    before = {one.id for one in client.files()}
    with pytest.raises(qanvas.InvalidInput) as caught:
        client.submit("fake", prompt="x", image=b"one", more=[{"mask": io.BytesIO(b"two")}])
    assert {error.pointer for error in caught.value.errors} == {"/input/more"}
    new = [one.id for one in client.files() if one.id not in before]
    assert sorted(client.read_file(one) for one in new) == [b"one", b"two"]


def test_a_wrong_field_is_named_and_a_wrong_address_is_said(
    client: Face, connect: Callable[..., Face]
) -> None:
    with pytest.raises(qanvas.InvalidInput) as caught:
        client.submit("fake", prompt="x", width=65)
    assert [error.pointer for error in caught.value.errors] == ["/input/width"]
    assert caught.value.type == "urn:qanvas:problem:invalid-input"
    with pytest.raises(qanvas.NoAnswer, match="no server answers"):
        connect("http://127.0.0.1:9", patience=0).queues()
    with pytest.raises(qanvas.InvalidAddress, match="is no address"):
        connect("localhost", patience=0).queues()


def test_the_same_idempotency_key_gives_the_same_job(client: Face) -> None:
    options: qanvas.Options = {"idempotency_key": f"key-{id(client)}"}
    first = client.submit("fake", prompt="x", steps=1, options=options)
    assert client.submit("fake", prompt="x", steps=1, options=options).id == first.id
    assert client.submit("fake", prompt="x", steps=1).id != first.id


def test_the_example_of_the_readme_runs(
    server: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    example = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.setenv("QANVAS_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert Image.open("apple.png").format == "PNG"
    said = capsys.readouterr().out
    assert "done\nsucceeded " in said
