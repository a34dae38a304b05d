"""Bad input of every kind: a problem document that names the field, never a 5xx, never a job left behind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.usecases.services import Services
from tests.api.helpers import Api, faults, jobs_there

JSON = {"Content-Type": "application/json"}
#: where the request is refused before the database is asked for anything
no_sql = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(services: Services) -> Any:
    yield
    assert jobs_there(services) == 0
    assert services.files.list("default") == []
    assert list(services.storage.list("files")) == []


@no_sql
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "fake", "input": {"prompt": "x"}} and more',
        b"{'model': 'fake'}",
        b'{"model": "fake", "input": {"prompt": "a\nb"}}',
        b'{"model": "fake", "input": {"prompt": "\xff"}}',
        b'\xff\xfe{\x00"\x00',
        b'{"model": "fake", "input": {"prompt": "x", "seed": NaN}}',
        b'{"model": "fake", "input": {"prompt": "x", "seed": -Infinity}}',
        b'{"model": "fake", "input": {"prompt": "x", "step_seconds": 1e999}}',
        b'{"model": "fake", "model": "fake", "input": {"prompt": "x"}}',
        b'{"model": "fake", "input": {"prompt": "x", "seed": ' + b"9" * 5000 + b"}}",
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"model": "fake", "metadata": ' + b"[" * 500 + b"]" * 500 + b"}",
        b"[" * 1_000_000,
    ],
    ids=lambda body: repr(body[:60]),
)
def test_what_is_not_json_is_malformed(api: Api, body: bytes) -> None:
    answer = api.post("/v1/jobs", data=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert len(answer.data) < 2000


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ([], ""),
        ("text", ""),
        (None, ""),
        ({}, ""),
        ({"input": {}}, ""),
        ({"model": "nobody's", "input": {}}, "/model"),
        ({"model": "nobody's\x00", "input": {}}, "/model"),
        ({"model": ["fake"], "input": {}}, "/model"),
        ({"model": "fake", "task": "text-to-video"}, "/task"),
        ({"task": "to-make-coffee"}, "/task"),
        ({"model": "fake", "input": "x"}, "/input"),
        ({"model": "fake", "input": None}, "/input"),
        ({"model": "fake", "input": {}}, "/input/prompt"),
        ({"model": "fake", "input": {"prompt": 7}}, "/input/prompt"),
        ({"model": "fake", "input": {"prompt": "x" * (1 << 20)}}, "/input/prompt"),
        ({"model": "fake", "input": {"prompt": "x\x00y"}}, "/input/prompt"),
        ({"model": "fake", "input": {"prompt": "\ud800"}}, "/input/prompt"),
        ({"model": "fake", "input": {"prompt": "x", "width": 65}}, "/input/width"),
        ({"model": "fake", "input": {"prompt": "x", "width": 1 << 20}}, "/input/width"),
        ({"model": "fake", "input": {"prompt": "x", "width": "64"}}, "/input/width"),
        ({"model": "fake", "input": {"prompt": "x", "width": True}}, "/input/width"),
        ({"model": "fake", "input": {"prompt": "x", "width": 10**400}}, "/input/width"),
        ({"model": "fake", "input": {"prompt": "x", "seed": -1}}, "/input/seed"),
        ({"model": "fake", "input": {"prompt": "x", "colour": "red"}}, "/input/colour"),
        ({"model": "fake", "input": {"prompt": "x"}, "colour": "red"}, "/colour"),
        ({"model": "fake", "input": {"prompt": "x"}, "priority": 10}, "/priority"),
        ({"model": "fake", "input": {"prompt": "x"}, "priority": 5.5}, "/priority"),
        ({"model": "fake", "input": {"prompt": "x"}, "max_attempts": 0}, "/max_attempts"),
        ({"model": "fake", "input": {"prompt": "x"}, "timeout": 0}, "/timeout"),
        ({"model": "fake", "input": {"prompt": "x"}, "timeout": 1e300}, "/timeout"),
        ({"model": "fake", "input": {"prompt": "x"}, "expires_in": -1}, "/expires_in"),
        ({"model": "fake", "input": {"prompt": "x"}, "run_at": "tomorrow"}, "/run_at"),
        ({"model": "fake", "input": {"prompt": "x"}, "run_at": 5}, "/run_at"),
        ({"model": "fake", "input": {"prompt": "x"}, "run_at": "0001-01-01T00:00:00Z"}, "/run_at"),
        ({"model": "fake", "input": {"prompt": "x"}, "run_at": "2030-01-01T23:59:60Z"}, "/run_at"),
        ({"model": "fake", "input": {"prompt": "x"}, "group": ""}, "/group"),
        ({"model": "fake", "input": {"prompt": "x"}, "group": "a/b"}, "/group"),
        ({"model": "fake", "input": {"prompt": "x"}, "group": "g" * 300}, "/group"),
        ({"model": "fake", "input": {"prompt": "x"}, "metadata": []}, "/metadata"),
        ({"model": "fake", "input": {"prompt": "x"}, "metadata": {"a": "\x00"}}, "/metadata/a"),
        ({"model": "fake", "input": {"prompt": "x"}, "metadata": {"\x00": 1}}, "/metadata"),
        ({"model": "fake", "input": {"prompt": "x"}, "depends_on": "job_1"}, "/depends_on"),
        ({"model": "fake", "input": {"prompt": "x"}, "depends_on": ["job_1"]}, "/depends_on/0"),
        ({"model": "fake", "input": {"prompt": "x"}, "depends_on": ["job_x"] * 1001}, "/depends_on"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_what_is_json_but_no_job_names_the_field(api: Api, body: Any, pointer: str) -> None:
    answer = api.post("/v1/jobs", data=json.dumps(body), headers=JSON)
    assert answer.status_code == 422, answer.text
    assert pointer in faults(answer), answer.text
    assert len(answer.data) < 6000


def test_a_fault_says_what_is_allowed(api: Api) -> None:
    answer = api.post("/v1/jobs", {"model": "fake", "input": {"prompt": "x", "widht": 64, "width": 65}})
    found = faults(answer)
    assert "multiple of 8" in found["/input/width"]
    assert "width" in found["/input/widht"] and "steps" in found["/input/widht"]


@pytest.mark.parametrize(
    "text", ["\u2028", "👩‍🚀", "e\u0301", "\u202eevil", "\ufffe", "\u0001", "\U0010ffff"]
)
def test_any_other_text_is_kept_as_it_is(api: Api, services: Services, text: str) -> None:
    job = api.submit(input={"prompt": text}, metadata={text: text})
    kept = api.get(job["urls"]["self"]).json
    assert kept["input"]["prompt"] == text and kept["metadata"] == {text: text}
    services.jobs.cancel(job["id"])
    services.jobs.delete(job["id"])


@no_sql
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "\x7f"},
    ],
)
def test_another_media_type_is_refused(api: Api, headers: dict[str, str]) -> None:
    answer = api.post("/v1/jobs", data=b'{"model": "fake", "input": {"prompt": "x"}}', headers=headers)
    assert answer.status_code == 415
    assert "application/json" in answer.text or "Content-Encoding" in answer.text


@pytest.mark.parametrize(
    "id",
    ["job_", "nothing", "%00", "job_%00", "%ff", "a%2Fb", "..", "é", "x" * 5000, f"job_01{'0' * 24}"],
)
def test_an_unknown_id_is_not_found(api: Api, id: str) -> None:
    for method, path in [
        ("GET", f"/v1/jobs/{id}"),
        ("GET", f"/v1/jobs/{id}/events"),
        ("GET", f"/v1/jobs/{id}/preview"),
        ("POST", f"/v1/jobs/{id}/cancel"),
        ("POST", f"/v1/jobs/{id}/retry"),
        ("GET", f"/v1/jobs/{id}/attempts"),
        ("DELETE", f"/v1/jobs/{id}"),
        ("GET", f"/v1/outputs/{id}"),
        ("GET", f"/v1/files/{id}"),
        ("GET", f"/v1/files/{id}/content"),
        ("DELETE", f"/v1/files/{id}"),
        ("GET", f"/v1/models/{id}"),
        ("GET", f"/v1/groups/{id}"),
        ("POST", f"/v1/groups/{id}/cancel"),
    ]:
        answer = api.call(method, path)
        assert answer.status_code == 404, f"{method} {path}: {answer.text}"


@no_sql
@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/jobs/", "//v1/jobs", "/v1/jobs/a/b/c", "/static/x"])
def test_an_unknown_path_is_not_found(api: Api, path: str) -> None:
    assert api.get(path).status_code == 404


@no_sql
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "BREW"])
def test_another_method_is_told_which_are_allowed(api: Api, method: str) -> None:
    answer = api.call(method, "/v1/jobs")
    assert answer.status_code == 405
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))
    assert answer.mimetype == "application/problem+json"


def test_options_and_head_are_answered(api: Api) -> None:
    answer = api.call("OPTIONS", "/v1/jobs")
    assert answer.status_code == 200 and "POST" in answer.headers["Allow"]
    head = api.call("HEAD", "/v1/jobs")
    assert head.status_code == 200 and head.data == b""
    assert api.call("HEAD", "/v1/jobs/nothing").status_code == 404


@no_sql
@pytest.mark.parametrize("wait", ["x", "-1", "61", "nan", "inf", "1e999", ""])
def test_a_wait_that_cannot_be_is_refused(api: Api, wait: str) -> None:
    answer = api.get(f"/v1/jobs/job_01ARZ3NDEKTSV4RRFFQ69G5FAV?wait={wait}")
    assert answer.status_code == 422 and list(faults(answer)) == ["/wait"]


@pytest.mark.parametrize("body", [b"x" * 100, b"{"])
def test_a_body_nobody_asked_for_is_ignored(api: Api, body: bytes) -> None:
    assert api.call("POST", "/v1/jobs/nothing/cancel", data=body).status_code == 404
    assert api.call("GET", "/v1/jobs", data=body, headers=JSON).status_code == 200


def test_a_fault_says_what_is_taken_in_words(api: Api) -> None:
    body = {"model": "fake", "input": {"prompt": "x"}}
    answer = api.post("/v1/jobs", body | {"run_at": "yesterday"})
    assert faults(answer) == {"/run_at": "must be a time as in 2030-01-31T12:00:00Z; got 'yesterday'"}
    said = faults(api.post("/v1/jobs/bulk", {"jobs": []}))["/jobs"]
    assert said.startswith("must be a list, 1 to 1000 items, each an object, with model, task, input, ")
