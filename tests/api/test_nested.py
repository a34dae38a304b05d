"""Files inside objects and arrays of an input: settled by the API, brought by the worker."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from flask import Flask

from api.usecases.services import Services
from shared.errors import JobError
from shared.jobs.entities import NewModel
from shared.settings import Settings
from tests.api.helpers import Api, Hand, faults, png
from worker.attempts.preparer import Preparer

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

PICTURE = {"type": "string", "x-file": "image", "x-picture": "rgb"}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": [],
    "properties": {
        "frames": {
            "type": "array",
            "items": {"type": "object", "properties": {"at": {"type": "integer"}, "image": PICTURE}},
        },
        "style": {"type": "object", "properties": {"notes": {"type": "string", "x-file": "text"}}},
    },
}


@pytest.fixture
def nested(hand: Hand, api: Api, services: Services) -> str:
    """A model with such inputs, and weights, in the catalog."""
    services.storage.write("models/nested/a.safetensors", b"")
    api.submit()
    entry = {
        "task": "text-to-image",
        "engine": "fake",
        "prefix": "models/nested",
        "input_schema": SCHEMA,
        "output": "image/png",
        "queue": "default",
        "license": None,
        "description": "",
        "options": {},
    }
    hand.succeed(hand.claim(), model=NewModel(id="nested", entry=entry))
    return "nested"


def uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def submit(api: Api, model: str, given: dict[str, Any]) -> Any:
    return api.post("/v1/jobs", {"model": model, "input": given})


def test_nested_files_are_settled_kept_and_brought(
    api: Api, nested: str, services: Services, settings: Settings, hand: Hand, tmp_path: Path
) -> None:
    file = api.upload(png(16, 8))["id"]
    api.submit()
    made = hand.succeed(hand.claim(), png(16, 8))
    frames = [
        {"at": 1, "image": file},
        {"at": 2, "image": made.outputs[0].id},
        {"at": 3, "image": {"job": made.id, "output": 0}},
        {"at": 4, "image": uri(png(16, 8), "image/png")},
        {"at": 5},
    ]
    given = {"frames": frames, "style": {"notes": uri(b"calm", "text/plain")}}
    answer = submit(api, nested, given)
    assert answer.status_code == 202, answer.text
    assert answer.json["depends_on"] == [made.id]
    kept = answer.json["input"]
    assert kept["frames"][:3] == frames[:3]
    assert kept["frames"][3]["image"].startswith("file_") and kept["style"]["notes"].startswith("file_")

    preparer = Preparer(settings, services.catalog, services.storage, services.files, services.jobs)
    job = services.jobs.get(answer.json["id"])
    given = dict(preparer.order(job, tmp_path / "s", lambda progress: None).work.input)
    assert Path(given["style"]["notes"]).read_bytes() == b"calm"
    pictures = [frame["image"] for frame in given["frames"][:4]]
    assert all(isinstance(one, PIL.Image.Image) and one.size == (16, 8) for one in pictures)
    assert given["frames"][4] == {"at": 5}

    services.files.delete(kept["frames"][3]["image"])
    with pytest.raises(JobError, match=r"^frames/3/image: file_.* upload it again"):
        preparer.order(job, tmp_path / "t", lambda progress: None)


def test_faults_of_nested_files_name_their_places(api: Api, nested: str) -> None:
    text = api.upload(b"hello", "a.txt", "text/plain")["id"]
    for image, said in [
        ("nonsense", "must be a file_"),
        ("file_01ARZ3NDEKTSV4RRFFQ69G5FAV", "no file"),
        (text, "must be image"),
        ("http://169.254.169.254/", "not a public address"),
    ]:
        answer = submit(api, nested, {"frames": [{"at": 1}, {"image": image}]})
        assert answer.status_code == 422, answer.text
        assert said in faults(answer)["/input/frames/1/image"]


def test_a_nested_reference_is_renamed_when_what_it_names_was_retried(
    api: Api, nested: str, hand: Hand, services: Services
) -> None:
    first = api.submit()
    second = submit(api, nested, {"frames": [{"image": {"job": first["id"], "output": 0}}]}).json
    hand.fail(hand.claim())
    services.completion.settle()
    again = api.post(f"/v1/jobs/{first['id']}/retry").json
    retried = api.post(f"/v1/jobs/{second['id']}/retry").json
    assert retried["input"]["frames"] == [{"image": {"job": again["id"], "output": 0}}]


def test_a_file_that_retention_takes_between_check_and_commit_is_refused(
    api: Api, nested: str, services: Services, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = services.jobs.submit

    def late(*args: Any, **options: Any) -> Any:
        services.files.delete(file)
        return commit(*args, **options)

    monkeypatch.setattr(services.jobs, "submit", late)
    for path, pointer in (("/v1/jobs", ""), ("/v1/jobs/bulk", "/jobs/1")):
        file = api.upload(png())["id"]
        body = {"model": nested, "input": {"frames": [{"image": file}]}}
        plain = {"model": "fake", "input": {"prompt": "x"}}
        answer = api.post(path, {"jobs": [plain, body]} if pointer else body)
        assert answer.status_code == 422, answer.text
        assert file in faults(answer)[f"{pointer}/input/frames/0/image"]
    assert services.jobs.counts() == {"succeeded": 1}
