"""Files: uploaded, listed, read back, named by jobs."""

from __future__ import annotations

import base64
import io
import zipfile
from typing import Any

import pytest

from api.app import create_app
from api.usecases.services import Services
from shared.settings import Settings
from tests.api.helpers import Api, Hand, faults, jobs_there, png

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

BOUNDARY = "x"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("metadata.jsonl", "")
    return content.getvalue()


def training(dataset: str) -> dict[str, Any]:
    return {"model": "train-gan", "input": {"dataset": dataset, "name": "my-gan"}}


def test_an_uploaded_file_is_read_back_as_it_was(api: Api) -> None:
    content = bytes(range(256)) * 5000
    file = api.upload(content, "a b.bin", "application/x-thing", purpose="fine-tune")
    assert file["bytes"] == len(content) and file["filename"] == "a b.bin" and file["purpose"] == "fine-tune"
    assert api.get(f"/v1/files/{file['id']}").json == file
    answer = api.get(f"/v1/files/{file['id']}/content")
    assert answer.data == content and answer.mimetype == "application/x-thing"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="a b.bin"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("filename", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("/", "file"),
        ("Katze 🐱.png", "Katze 🐱.png"),
    ],
)
def test_a_filename_is_only_a_name(api: Api, filename: str, kept: str) -> None:
    file = api.upload(b"x", filename)
    assert file["filename"] == kept
    assert api.get(f"/v1/files/{file['id']}/content").status_code == 200


def test_files_are_listed_newest_first(api: Api) -> None:
    ids = [api.upload(b"x", purpose=purpose)["id"] for purpose in ("a", "b", "a")]
    assert [file["id"] for file in api.get("/v1/files").json["data"]] == ids[::-1]
    page = api.get("/v1/files?purpose=a&limit=1").json
    assert [file["id"] for file in page["data"]] == [ids[2]] and page["has_more"]
    page = api.get(f"/v1/files?purpose=a&limit=1&after={ids[2]}").json
    assert [file["id"] for file in page["data"]] == [ids[0]] and not page["has_more"]
    assert api.get("/v1/files?after=x").status_code == 422


def test_a_deleted_file_is_gone(api: Api, services: Services) -> None:
    file = api.upload(b"x")
    path = f"/v1/files/{file['id']}"
    assert api.delete(path).json == {"id": file["id"], "object": "file", "deleted": True}
    assert api.get(path).status_code == api.get(f"{path}/content").status_code == 404
    assert api.delete(path).status_code == 404
    assert list(services.storage.list("files")) == []


def part(name: str, content: bytes = b"y", extra: str = "") -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + content + b"\r\n"


FILE = part("file", extra='; filename="a"')
END = b"--x--\r\n"


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (b"", 422, "/file"),
        (b"nonsense", 400, None),
        (FILE, 400, None),
        (FILE[:-20], 400, None),
        (b"--x\r\nnonsense\r\n\r\ny\r\n" + END, 400, None),
        (END, 422, "/file"),
        (part("purpose") + END, 422, "/file"),
        (part("file") + END, 422, "/file"),
        (FILE + FILE + END, 422, "/file"),
        (FILE + part("colour") + END, 422, "/colour"),
        (FILE + part("purpose", b"Not A Name") + END, 422, "/purpose"),
        (FILE + part("purpose", b"a\x00") + END, 422, "/purpose"),
        (FILE + part("purpose", b"\xff") + END, 400, None),
        (FILE + part("purpose", b"a" * 5000) + END, 413, None),
        (part("file", extra='; filename="a\x00b"') + END, 422, "/file"),
        (part("file", extra=f'; filename="{"a" * 300}"') + END, 422, "/file"),
        (FILE + b"".join(part("purpose") for _ in range(20)) + END, 413, None),
    ],
)
def test_an_upload_that_is_none_leaves_nothing_behind(
    api: Api, services: Services, body: bytes, status: int, pointer: str | None
) -> None:
    answer = api.post("/v1/files", data=body, headers=HEADERS)
    assert answer.status_code == status, answer.text
    assert pointer is None or pointer in faults(answer)
    assert services.files.list("default") == []
    assert list(services.storage.list("files")) == []


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "multipart/form-data", "multipart/form-data; boundary=", "", "multipart/x"],
)
def test_an_upload_of_another_media_type_is_refused(api: Api, content_type: str) -> None:
    answer = api.post("/v1/files", data=FILE + END, headers={"Content-Type": content_type})
    assert answer.status_code == 415


def test_a_file_larger_than_allowed_is_refused(settings: Settings) -> None:
    app = create_app(settings.with_(max_upload_bytes=100_000, max_body_bytes=1000))
    api, services = Api(app), app.extensions["qanvas"]
    assert api.upload(b"x" * 100_000)["bytes"] == 100_000
    for size in (100_001, 3_000_000):
        answer = api.post("/v1/files", data={"file": (io.BytesIO(b"x" * size), "a")})
        assert answer.status_code == 413 and "QANVAS_MAX_UPLOAD_BYTES" in answer.text
    assert len(list(services.storage.list("files"))) == 1
    answer = api.post("/v1/jobs", {"model": "fake", "input": {"prompt": "x" * 1000}})
    assert answer.status_code == 413 and "/v1/files" in answer.text
    services.close()


def test_a_job_may_name_an_uploaded_file(api: Api) -> None:
    file = api.upload(archive(), "d.zip", "application/zip")
    answer = api.post("/v1/jobs", training(file["id"]))
    assert answer.status_code == 202, answer.text
    assert answer.json is not None and answer.json["input"]["dataset"] == file["id"]


def test_a_data_uri_becomes_a_stored_file(api: Api) -> None:
    content = archive()
    uri = f"data:application/zip;base64,{base64.b64encode(content).decode()}"
    job = api.post("/v1/jobs", training(uri)).json
    assert job is not None and job["input"]["dataset"].startswith("file_")
    assert api.get(f"/v1/files/{job['input']['dataset']}/content").data == content


def test_a_replayed_data_uri_is_not_stored_twice(api: Api, services: Services) -> None:
    uri = f"data:application/zip;base64,{base64.b64encode(archive()).decode()}"
    key = {"Idempotency-Key": "once"}
    first = api.post("/v1/jobs", training(uri), headers=key)
    again = api.post("/v1/jobs", training(uri), headers=key)
    assert again.headers["Idempotency-Replayed"] == "true" and again.json == first.json
    assert len(services.files.list("default")) == len(list(services.storage.list("files"))) == 1


def test_a_submission_sent_again_is_answered_whatever_has_gone_meanwhile(
    api: Api, services: Services, hand: Hand
) -> None:
    """The file and the job that it waited for are deleted, and there is no room for more jobs."""
    file = api.upload(archive(), "a.zip", "application/zip")["id"]
    before = api.submit()
    hand.succeed(hand.claim())
    key = {"Idempotency-Key": "once"}
    body = training(file) | {"depends_on": [before["id"]]}
    first = api.post("/v1/jobs", body, headers=key)
    api.post(first.json["urls"]["cancel"])
    assert api.delete(f"/v1/files/{file}").status_code == 200
    assert api.delete(before["urls"]["self"]).status_code == 204
    services.tenants.set("default", {"submissions": 1})
    again = api.post("/v1/jobs", body, headers=key)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert (again.json["id"], again.json["status"]) == (first.json["id"], "canceled")
    other = api.post("/v1/jobs", body | {"priority": 9}, headers=key)
    assert other.status_code == 422 and list(faults(other)) == [""]
    assert set(faults(api.post("/v1/jobs", body))) == {"/input/dataset"}
    assert api.post("/v1/jobs", body).status_code == 429, "the replays were no submissions"


def test_a_url_is_kept_for_the_worker_to_fetch(api: Api) -> None:
    answer = api.post("/v1/jobs", training("HTTPS://example.org/a.zip"))
    assert answer.status_code == 202 and answer.json is not None
    assert answer.json["input"]["dataset"] == "HTTPS://example.org/a.zip"


@pytest.mark.parametrize(
    "dataset",
    [
        "file_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "out_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "file_nothing",
        "/etc/passwd",
        "../../etc/passwd",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
        "HTTPS://u:p@example.org/a.zip",
        "http://2130706433/a.zip",
        "http://[::ffff:10.0.0.1]/a.zip",
        "data:",
        "data:application/zip;base64,",
        "data:application/zip;base64,!!!!",
        "data:application/zip;base64,eA",
        "data:image/png;base64,eHh4",
        "",
    ],
)
def test_a_file_that_cannot_be_is_refused_by_name(api: Api, services: Services, dataset: str) -> None:
    answer = api.post("/v1/jobs", training(dataset))
    assert answer.status_code == 422 and list(faults(answer)) == ["/input/dataset"], answer.text
    assert jobs_there(services) == 0 and list(services.storage.list("files")) == []


def test_a_bad_job_among_many_takes_back_the_files_of_the_others(api: Api, services: Services) -> None:
    uri = f"data:application/zip;base64,{base64.b64encode(archive()).decode()}"
    answer = api.post("/v1/jobs/bulk", {"jobs": [training(uri), training("nothing")]})
    assert answer.status_code == 422 and list(faults(answer)) == ["/jobs/1/input/dataset"]
    assert jobs_there(services) == 0 and list(services.storage.list("files")) == []


def test_an_output_is_no_archive_when_it_is_a_picture(hand: Hand, api: Api) -> None:
    api.submit()
    done = hand.succeed(hand.claim(), png())
    answer = api.post("/v1/jobs", training(done.outputs[0].id))
    assert "image/png" in faults(answer)["/input/dataset"]
