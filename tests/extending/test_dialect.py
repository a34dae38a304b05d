"""Another API over the same jobs: the code of docs/extending/dialect.md, run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.app import create_app
from api.auth.caller import Caller
from api.dialects import DIALECTS
from api.routing.dialect import Dialects
from api.usecases import job_watcher
from api.usecases.cancel import cancel
from api.usecases.long_poll import until_terminal
from api.usecases.services import Services
from api.usecases.submit import retry, submit
from shared.accounts.keys import SCOPES
from shared.errors import OverLimit
from shared.settings import Settings
from tests.extending.pages import files_of
from tests.servers import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "extending" / "dialect.md"


@pytest.fixture
def app(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    folder = tmp_path / "packages"
    for name, text in files_of(PAGE).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    dialect = import_module("tiny.dialect").DIALECT
    app = create_app(settings, [*DIALECTS, dialect])
    yield app
    app.extensions["qanvas"].close()
    for name in [name for name in sys.modules if name.partition(".")[0] == "tiny"]:
        del sys.modules[name]


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def test_a_job_of_one_dialect_is_seen_and_canceled_in_the_other(client: FlaskClient) -> None:
    begun = client.post("/tiny/drawings", json={"what": "a red apple"})
    assert begun.status_code == 201 and begun.json is not None, begun.text
    job = client.get(f"/v1/jobs/{begun.json['number']}").json
    assert job is not None and job["input"]["prompt"] == "a red apple"
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    assert client.get(f"/tiny/drawings/{job['id']}").json == {"number": job["id"], "state": "done"}


def test_its_errors_have_a_shape_of_their_own(client: FlaskClient, app: Flask) -> None:
    services: Services = app.extensions["qanvas"]
    said = client.post("/tiny/drawings", json={"what": ""})
    assert said.status_code == 422 and said.json == {
        "oops": "/what: must be text, at least 1 characters; got ''"
    }
    assert client.post("/tiny/drawings", data=b"{", content_type="application/json").json.keys() == {"oops"}  # type: ignore[union-attr]
    for path in ("/tiny/drawings/job_x", "/tiny/nowhere"):
        answer = client.get(path)
        assert answer.status_code == 404 and answer.json is not None and answer.json.keys() == {"oops"}
    assert client.delete("/tiny/drawings").status_code == 405
    assert client.get("/v1/nowhere").mimetype == "application/problem+json"
    services.tenants.set("default", {"submissions": 1})
    client.post("/tiny/drawings", json={"what": "x"})
    limited = client.post("/tiny/drawings", json={"what": "x"})
    assert limited.status_code == 429 and limited.json is not None and limited.json.keys() == {"oops"}
    assert int(limited.headers["Retry-After"]) > 0


def test_its_key_comes_where_it_says(client: FlaskClient, app: Flask) -> None:
    services: Services = app.extensions["qanvas"]
    _, secret = services.keys.create("test", tenant="default", scopes=("submit", "read"))
    services.is_keyed.forget()
    body = {"what": "x"}
    refused = client.post("/tiny/drawings", json=body, headers={"Authorization": f"Bearer {secret}"})
    assert refused.status_code == 401 and refused.json is not None and refused.json.keys() == {"oops"}
    assert client.post("/tiny/drawings", json=body, headers={"X-Tiny-Key": secret}).status_code == 201
    native = client.get("/v1/jobs", headers={"X-Tiny-Key": secret})
    assert native.status_code == 401 and native.headers["WWW-Authenticate"].startswith("Bearer")


def test_it_is_part_of_the_document(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    assert document is not None
    draw = document["paths"]["/tiny/drawings"]["post"]
    assert (draw["operationId"], draw["security"]) == ("tiny_draw", [{"tiny_key": ["submit"]}])
    assert draw["responses"]["422"]["content"]["application/json"]["schema"]["required"] == ["oops"]
    assert document["components"]["securitySchemes"]["tiny_key"]["name"] == "X-Tiny-Key"


def test_two_operations_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="both native and native have an operation"):
        Dialects([*DIALECTS, *DIALECTS])


def test_jobs_are_submitted_followed_and_canceled_without_a_request(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds in ("_ASK_EVERY", "_ASK_EVERY_AWAY"):
        monkeypatch.setattr(job_watcher, seconds, 600.0)  # who waits is told, or waits in vain
    services: Services = app.extensions["qanvas"]
    ann = Caller("ann", SCOPES, "ann", "ann")
    job = submit(services, ann, {"model": "fake", "input": {"prompt": "x"}}).job
    assert (job.tenant, services.jobs.get(job.id, tenant="ann").status) == ("ann", "queued")
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(until_terminal, services, ann, job, 60.0, lambda: False)
        wait_until(lambda: services.follower._listener.connected, 10, what="the subscription to events")
        cancel(services, ann, job.id)
        assert waiting.result(30).status == "canceled"
    assert retry(services, ann, job.id).id != job.id
    services.tenants.set("ann", {"submissions": 1})
    submit(services, ann, {"model": "fake", "input": {"prompt": "y"}})
    with pytest.raises(OverLimit):
        submit(services, ann, {"model": "fake", "input": {"prompt": "x"}})
