"""Models, workers, queues, and how the server is."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from api.app import create_app
from api.usecases.services import Services
from shared.jobs.workers import Worker
from shared.settings import Settings
from tests.api.helpers import Api, Hand, faults, png
from tests.servers import Valkey

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_models_say_what_they_take(api: Api) -> None:
    models = {model["id"]: model for model in api.get("/v1/models").json["data"]}
    assert {"fake", "train-gan"} <= set(models)
    fake = models["fake"]
    assert fake["task"] == "text-to-image" and fake["state"] == "ready"
    assert "prompt" in fake["input_schema"]["properties"]
    assert fake["tasks"] == ["text-to-image"]
    assert fake["input_schemas"] == {"text-to-image": fake["input_schema"]}
    assert api.get("/v1/models/fake").json == fake
    assert api.get("/v1/models/nobody's").status_code == 404


def test_a_model_of_several_tasks_has_a_schema_and_takes_files_for_each(api: Api) -> None:
    model = api.get("/v1/models/starter-image").json
    assert model["tasks"] == list(model["input_schemas"]) == ["text-to-image", "image-to-image", "inpainting"]
    assert model["input_schemas"]["inpainting"]["required"] == ["prompt", "image", "mask"]
    file = api.upload(png())["id"]
    given = {"prompt": "a green apple", "image": file, "mask": "data:image/png;base64,iVBORw0KGgo="}
    body = {"model": "starter-image", "task": "inpainting", "input": given}
    job = api.post("/v1/jobs", body).json
    assert job["task"] == "inpainting" and job["input"]["image"] == file
    assert job["input"]["mask"].startswith("file_") and job["input"]["width"] == 64
    answer = api.post("/v1/jobs", {"model": "starter-image", "input": {"prompt": "a", "image": file}})
    assert answer.status_code == 422
    assert faults(answer)["/input/image"].endswith('give "task": "image-to-image"')


def test_a_model_that_a_worker_holds_is_loaded(api: Api, services: Services) -> None:
    services.registry.heartbeat(
        Worker(id="wrk_1", host="h", pid=7, device="cuda:0", slots=2, queues=("default",), models=("fake",))
    )
    assert api.get("/v1/models/fake").json["state"] == "loaded"


def test_workers_are_listed_with_what_they_run(hand: Hand, api: Api) -> None:
    api.submit()
    job = hand.claim()
    [worker] = api.get("/v1/workers").json["data"]
    assert worker["id"] == "wrk_hand" and worker["running"] == [job.id] and worker["slots"] == 1


def test_workers_and_metrics_tell_what_the_kilns_shared(api: Api, services: Services) -> None:
    forwards = {"calls": 22, "forwards": 7, "shared": 6, "alone/unet: exact": 3}
    worker = Worker(
        id="wrk_1", host="h", pid=7, device="cpu", slots=8, queues=("default",), forwards=forwards
    )
    services.registry.heartbeat(worker)
    [listed] = api.get("/v1/workers").json["data"]
    assert listed["forwards"] == forwards
    text = api.get("/metrics").text
    assert 'qanvas_kiln_calls_total{worker="wrk_1"} 22.0' in text
    assert 'qanvas_kiln_shared_total{worker="wrk_1"} 6.0' in text
    assert 'qanvas_kiln_alone_total{reason="unet: exact",worker="wrk_1"} 3.0' in text


def test_queues_say_how_deep_they_are(hand: Hand, api: Api) -> None:
    for _ in range(3):
        api.submit()
    queues = {queue["name"]: queue for queue in api.get("/v1/queues").json["data"]}
    assert queues["default"]["queued"] == 3 and queues["default"]["workers"] == 1
    assert queues["default"]["oldest_seconds"] >= 0
    nothing = {"queued": 0, "held_back": 0, "oldest_seconds": None, "workers": 0}
    assert queues["training"] == {"name": "training", **nothing}


def test_a_healthy_server_says_so(api: Api) -> None:
    assert api.get("/healthz").json == {"status": "ok"}
    assert api.get("/readyz").json == {"status": "ready"}


def test_a_server_without_redis_is_degraded_and_takes_jobs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.messaging.tickets._TIMEOUT", 0.5)  # for which it is waited in the end
    app = create_app(settings.with_(redis_url="redis://127.0.0.1:1/0"))
    api = Api(app)
    assert api.get("/healthz").status_code == 200
    answer = api.get("/readyz")
    assert answer.status_code == 200
    assert answer.json["status"] == "degraded" and "Redis does not answer" in answer.json["degraded"][0]
    job = api.submit()
    assert api.get(job["urls"]["self"]).json["status"] == "queued"
    assert api.get(f"{job['urls']['self']}/preview").status_code == 503
    assert api.post(job["urls"]["cancel"]).status_code == 202
    assert api.delete(job["urls"]["self"]).status_code == 204
    app.extensions["qanvas"].close()


def test_a_server_whose_redis_takes_no_writes_is_degraded(settings: Settings, tmp_path: Path) -> None:
    replica = Valkey(tmp_path).start()
    try:
        replica.command("REPLICAOF", "127.0.0.1", "1")
        app = create_app(settings.with_(redis_url=replica.url))
        api = Api(app)
        answer = api.get("/readyz")
        assert answer.status_code == 200 and answer.json["status"] == "degraded"
        assert answer.json["degraded"] == ["Redis takes no writes; the server's log says why"]
        api.submit()
        app.extensions["qanvas"].close()
    finally:
        replica.stop()


def test_a_server_whose_storage_takes_no_files_is_not_ready(api: Api, settings: Settings) -> None:
    storage = settings.data / "storage"
    away = storage.rename(storage.with_name("away"))
    answer = api.get("/readyz")
    assert answer.status_code == 503 and answer.headers["Retry-After"]
    assert answer.json["detail"] == "the storage cannot be written; the server's log says why"
    given = {"prompt": "x", "image": "data:image/png;base64," + base64.b64encode(png()).decode()}
    refused = api.post("/v1/jobs", {"model": "starter-image", "task": "image-to-image", "input": given})
    assert refused.status_code == 503 and refused.headers["Retry-After"]
    away.rename(storage)


def test_a_storage_that_hangs_holds_up_no_look_at_the_server(
    api: Api, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = threading.Event()
    monkeypatch.setattr("api.usecases.readiness._PATIENCE", 0.1)
    monkeypatch.setattr(services.storage, "write", lambda *_: hanging.wait(60))
    for _ in range(3):
        answer = api.get("/readyz")
        assert answer.status_code == 503 and answer.json["detail"] == "the storage does not answer in time"
    asked = [thread for thread in threading.enumerate() if thread.name == "readiness"]
    assert len(asked) == 1, "each look began another one"
    hanging.set()
    asked[0].join(60)


def test_a_server_without_its_database_says_when_to_come_back_and_not_where_it_is(
    settings: Settings, caplog: Any
) -> None:
    app = create_app(settings.with_(database_url="postgresql://x@127.0.0.1:1/x"))
    api = Api(app)
    for answer in (
        api.get("/readyz"),
        api.get("/v1/jobs"),
        api.post("/v1/jobs", {"model": "fake", "input": {"prompt": "x"}}),
    ):
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        assert answer.json["detail"] == "the database does not answer; the server's log says why"
    assert "127.0.0.1" in caplog.text
    app.extensions["qanvas"].close()


def test_a_storage_that_cannot_be_written_is_not_named(api: Api, settings: Settings, caplog: Any) -> None:
    (settings.data / "storage").mkdir(parents=True, exist_ok=True)
    (settings.data / "storage" / "files").write_text("no folder")
    upload = {"file": (io.BytesIO(png()), "a.png", "image/png")}
    answer = api.post("/v1/files", data=upload)
    assert answer.status_code == 503
    assert answer.json["detail"] == "the storage cannot be written; the server's log says why"
    assert str(settings.data) in caplog.text


def test_metrics_count_jobs_and_requests(hand: Hand, api: Api) -> None:
    api.submit()
    api.get("/v1/jobs/nothing")
    text = api.get("/metrics").text
    assert 'qanvas_jobs{status="queued"} 1.0' in text
    assert 'qanvas_queue_depth{queue="default"} 1.0' in text
    assert "qanvas_workers 1.0" in text
    for status in ("pending", "dead"):
        assert f'qanvas_webhook_deliveries{{status="{status}"}} 0.0' in text
    assert 'qanvas_requests_total{operation="get_job",status="404"} 1.0' in text


def test_an_unforeseen_error_is_a_problem_with_an_id_that_the_log_explains(app: Flask, caplog: Any) -> None:
    @app.route("/broken")
    def broken() -> str:
        raise ZeroDivisionError("the secret detail")

    answer = app.test_client().get("/broken")
    assert answer.status_code == 500 and answer.mimetype == "application/problem+json"
    assert answer.json is not None
    assert "secret" not in answer.text and answer.json["id"] in answer.json["detail"]
    assert answer.json["id"] in caplog.text and "the secret detail" in caplog.text
