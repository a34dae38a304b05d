"""Every operation of the OpenAPI document, called by a tenant for what is another's: it is not there."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from api.app import create_app
from api.routing.operations import Operation
from api.usecases.services import Services
from shared.accounts.keys import SCOPES, Scope
from shared.catalog.entries.model import Model, Stored
from shared.catalog.entries.serialization import to_entry
from shared.jobs.entities import NewModel
from shared.settings import Settings
from tests.api.helpers import Api, Hand, operations, png

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

#: operations that name nothing of anybody's, which the tests below look at one by one
_OF_ALL = {
    "docs",
    "get_webhook_secret",
    "healthz",
    "list_dead_letters",
    "list_files",
    "list_jobs",
    "list_models",
    "list_queues",
    "list_workers",
    "metrics",
    "openapi_document",
    "readyz",
    "retry_dead_letters",
    "submit_job",
    "submit_jobs",
    "upload_file",
}


@dataclass
class Possessions:
    """One of everything that a tenant can have, by the first words of the paths that name it."""

    headers: dict[str, str]
    jobs: list[str]
    file: str
    output: str
    event: str

    def by_path(self, path: str) -> str:
        kinds: Mapping[str, str] = {
            "/v1/jobs/{id}": self.jobs[0],
            "/v1/files/{id}": self.file,
            "/v1/outputs/{id}": self.output,
            "/v1/models/{id}": "secret-model",
            "/v1/groups/{name}": "secret-group",
            "/v1/webhooks/{id}": self.event,
        }
        known = next((found for start, found in kinds.items() if path.startswith(start)), None)
        assert known is not None, f"say in this test what {path} names"
        return re.sub(r"{\w+}", known, path, count=1)


@pytest.fixture
def app(settings: Settings) -> Any:
    app = create_app(settings.with_(host="0.0.0.0"))
    yield app
    app.extensions["qanvas"].close()


@pytest.fixture
def key(services: Services) -> Callable[..., dict[str, str]]:
    def make(tenant: str, *scopes: Scope) -> dict[str, str]:
        _, secret = services.keys.create("test", tenant=tenant, scopes=scopes)
        return {"Authorization": f"Bearer {secret}"}

    return make


@pytest.fixture
def theirs(hand: Hand, api: Api, services: Services, key: Callable[..., dict[str, str]]) -> Possessions:
    headers = key("ann", "submit", "read")
    body = {
        "model": "fake",
        "input": {"prompt": "secret"},
        "group": "secret-group",
        "webhook": {"url": "https://example.com/hook"},
    }
    jobs = [api.post("/v1/jobs", body, headers=headers).json["id"] for _ in range(2)]
    first = hand.claim()
    services.events.publish(first.id, "preview", {"url": "x"}, preview=png())
    known = services.catalog.get("fake", "ann")
    model = Model(
        id="secret-model",
        task=known.task,
        engine="fake",
        source=Stored("models/x"),
        input_schema=known.input_schema,
        output=known.output,
        queue="default",
    )
    done = hand.succeed(first, png(), model=NewModel(id=model.id, entry=to_entry(model)))
    hand.claim()
    upload = {"file": (io.BytesIO(png()), "secret.png", "image/png")}
    file = api.post("/v1/files", data=upload, headers=headers).json["id"]
    [event, *_] = services.outbox.of_job(done.id, limit=1)
    return Possessions(headers, jobs, file, done.outputs[0].id, event.id)


def _naming() -> list[Operation]:
    return [operation for operation in operations() if "{" in operation.path]


@pytest.mark.parametrize("operation", _naming(), ids=lambda operation: operation.id)
def test_what_is_another_tenants_is_not_there(
    operation: Operation, theirs: Possessions, api: Api, key: Callable[..., dict[str, str]]
) -> None:
    path = theirs.by_path(operation.path)
    for scopes in (("submit", "read"), ("admin",)):
        answer = api.call(operation.method, path, headers=key("bob", *scopes))
        assert answer.status_code == 404, f"{operation.method} {path}: {answer.text}"
        assert "secret" not in answer.text.replace("secret-model", "").replace("secret-group", "")
    own = api.call(operation.method, path, headers=theirs.headers)
    assert own.status_code not in (401, 403, 404), f"{operation.method} {path}: {own.text}"


def test_every_operation_that_is_published_is_looked_at_here(api: Api) -> None:
    paths = api.get("/openapi.json").json["paths"]
    published = {verb["operationId"] for verbs in paths.values() for verb in verbs.values()}
    assert published == _OF_ALL | {operation.id for operation in _naming()}


def test_lists_show_a_tenant_its_own(
    theirs: Possessions, api: Api, services: Services, key: Callable[..., dict[str, str]]
) -> None:
    bob = key("bob", "submit", "read")
    assert api.get("/v1/jobs", headers=bob).json["data"] == []
    assert api.get("/v1/jobs?group=secret-group", headers=bob).json["data"] == []
    assert api.get(f"/v1/jobs?cursor={theirs.jobs[0]}", headers=bob).json["data"] == []
    assert api.get("/v1/files", headers=bob).json["data"] == []
    models = {model["id"] for model in api.get("/v1/models", headers=bob).json["data"]}
    assert "secret-model" not in models and "fake" in models
    mine = {model["id"] for model in api.get("/v1/models", headers=theirs.headers).json["data"]}
    assert mine == models | {"secret-model"}


def test_dead_letters_are_listed_and_retried_by_their_tenant_alone(
    theirs: Possessions, hand: Hand, api: Api, services: Services, key: Callable[..., dict[str, str]]
) -> None:
    hand.fail(services.jobs.get(theirs.jobs[1]))
    for headers in (key("bob", "submit", "read"), key("bob", "admin")):
        assert api.get("/v1/dead-letters", headers=headers).json["data"] == []
        answer = api.post("/v1/dead-letters/retry", {}, headers=headers).json
        assert answer == {"retried": [], "skipped": [], "next_cursor": None}
    assert [one["job"]["id"] for one in api.get("/v1/dead-letters", headers=theirs.headers).json["data"]] == [
        theirs.jobs[1]
    ]


def test_a_worker_shows_a_tenant_its_own_jobs_and_an_admin_all(
    theirs: Possessions, hand: Hand, api: Api, services: Services, key: Callable[..., dict[str, str]]
) -> None:
    services.registry.heartbeat(
        replace(hand.worker, models=("fake", "ann/secret-model"), loading="ann/secret-model")
    )

    def seen(headers: dict[str, str]) -> tuple[list[str], list[str], str | None]:
        [worker] = api.get("/v1/workers", headers=headers).json["data"]
        return worker["running"], worker["models"], worker["loading"]

    assert seen(theirs.headers) == ([theirs.jobs[1]], ["fake", "secret-model"], "secret-model")
    assert seen(key("ann", "admin")) == seen(theirs.headers)
    assert seen(key("bob", "admin")) == (
        [theirs.jobs[1]],
        ["fake", "ann/secret-model"],
        "ann/secret-model",
    )
    assert seen(key("bob", "read")) == ([], ["fake"], None)


def test_a_model_of_the_same_name_is_not_taken_for_another_tenants(
    theirs: Possessions, hand: Hand, api: Api, services: Services, key: Callable[..., dict[str, str]]
) -> None:
    """Ann's is loaded, or loads; Bob has one that he called the same."""
    bob = key("bob", "submit", "read")
    api.post("/v1/jobs", {"model": "fake", "input": {"prompt": "x"}}, headers=bob)
    entry = to_entry(services.catalog.get("secret-model", "ann"))
    hand.succeed(hand.claim(), model=NewModel(id="secret-model", entry=entry))
    body = {"model": "secret-model", "input": {"prompt": "x"}}
    job = api.post("/v1/jobs", body, headers=bob).json["urls"]["self"]

    def seen(**worker: Any) -> tuple[list[str], str | None, str, str]:
        services.registry.heartbeat(replace(hand.worker, **worker))
        services.workers.forget()
        [shown] = api.get("/v1/workers", headers=bob).json["data"]
        state = api.get("/v1/models/secret-model", headers=bob).json["state"]
        return (
            shown["models"],
            shown["loading"],
            state,
            api.get(job, headers=bob).json["waiting"]["reason"],
        )

    assert seen(models=("ann/secret-model",)) == ([], None, "ready", "behind-others")
    assert seen(loading="ann/secret-model") == ([], None, "ready", "behind-others")
    assert seen(loading="bob/secret-model") == ([], "secret-model", "ready", "loading-model")
    assert seen(models=("bob/secret-model",)) == (["secret-model"], None, "loaded", "behind-others")


def test_each_tenant_has_a_secret_of_its_own(api: Api, key: Callable[..., dict[str, str]]) -> None:
    path = "/v1/webhooks/default/secret"
    secrets = {api.get(path, headers=key(tenant, "submit")).json["key"] for tenant in ("ann", "bob")}
    assert len(secrets) == 2


def test_figures_of_all_tenants_are_for_admins(api: Api, key: Callable[..., dict[str, str]]) -> None:
    assert api.get("/metrics", headers=key("bob", "submit", "read")).status_code == 403
    assert api.get("/metrics", headers=key("bob", "admin")).status_code == 200


def test_a_submission_cannot_use_what_is_another_tenants(
    theirs: Possessions, api: Api, services: Services, key: Callable[..., dict[str, str]]
) -> None:
    bob = key("bob", "submit", "read")
    for model, input in (
        ("secret-model", {"prompt": "x"}),
        ("train-gan", {"name": "mine", "dataset": theirs.file}),
        ("train-gan", {"name": "mine", "dataset": theirs.output}),
    ):
        answer = api.post("/v1/jobs", {"model": model, "input": input}, headers=bob)
        assert answer.status_code == 422, answer.text
        assert {fault["pointer"] for fault in answer.json["errors"]} & {"/model", "/input/dataset"}
    assert services.jobs.counts(tenant="bob") == {}


def test_the_same_idempotency_key_of_two_tenants_is_two_jobs(
    theirs: Possessions, api: Api, key: Callable[..., dict[str, str]]
) -> None:
    body = {"model": "fake", "input": {"prompt": "x"}}
    once = {"Idempotency-Key": "the-same"}
    made = [api.post("/v1/jobs", body, headers=key(tenant, "submit") | once) for tenant in ("ann", "bob")]
    assert made[0].json["id"] != made[1].json["id"]


@pytest.mark.parametrize(
    "operation",
    [one for one in operations() if one.scope is not None],
    ids=lambda operation: operation.id,
)
def test_a_key_without_the_scope_is_refused_by_every_operation(
    operation: Operation, api: Api, key: Callable[..., dict[str, str]]
) -> None:
    others = [scope for scope in SCOPES if scope not in (operation.scope, "admin")]
    path = re.sub(r"{\w+}", "x", operation.path)
    answer = api.call(operation.method, path, headers=key("ann", *others))
    assert answer.status_code == 403, answer.text
    assert repr(operation.scope) in answer.json["detail"]


#: operations that a key may call which may submit and not read
_SUBMITTING = [operation for operation in operations() if operation.scope == "submit"]


@pytest.mark.parametrize("operation", _SUBMITTING, ids=lambda operation: operation.id)
def test_a_key_that_may_not_read_sees_no_more_than_it_sent(
    operation: Operation,
    theirs: Possessions,
    api: Api,
    key: Callable[..., dict[str, str]],
) -> None:
    """Every operation for submitters, on jobs that another key of the same tenant sent."""
    blind = key("ann", "submit")
    ended, running = theirs.jobs
    if "{id}" in operation.path or "{name}" in operation.path:
        path = theirs.by_path(operation.path)
        if operation.id == "cancel_job":
            path = path.replace(ended, running)
        answer = api.call(operation.method, path, headers=blind)
        assert answer.status_code < 300, answer.text
    elif operation.id == "upload_file":
        form = {"file": (io.BytesIO(b"mine"), "mine.txt")}
        answer = api.call(operation.method, operation.path, data=form, headers=blind)
        assert answer.status_code == 201
    elif operation.id in ("submit_job", "submit_jobs", "get_webhook_secret"):
        return  # the tests below look at them
    else:
        answer = api.call(operation.method, operation.path, json={}, headers=blind)
        assert answer.status_code == 403 and "'read' as well" in answer.json["detail"]
    if operation.id != "upload_file":
        for told in ("prompt", "input", "example.com", "sha256", "outputs", "metadata"):
            assert told not in answer.text, answer.text


def test_a_key_that_may_not_read_learns_nothing_by_repeating_a_request_or_waiting(
    hand: Hand, api: Api, services: Services, key: Callable[..., dict[str, str]]
) -> None:
    blind, reader = key("ann", "submit"), key("ann", "submit", "read")
    body = {"model": "fake", "input": {"prompt": "mine"}}
    first = api.post("/v1/jobs", body, headers=reader | {"Idempotency-Key": "a"}).json
    hand.succeed(hand.claim(), png(), result={"text": "secret"})
    for headers in (blind, blind | {"Prefer": "wait=1"}):
        again = api.post("/v1/jobs", body, headers=headers | {"Idempotency-Key": "a"}).json
        assert (again["id"], again["input"]["prompt"]) == (first["id"], "mine")
        assert (again["outputs"], again["result"], again["error"]) == ([], None, None)
    told = api.post("/v1/jobs", body, headers=reader | {"Idempotency-Key": "a"}).json
    assert told["result"] == {"text": "secret"} and told["outputs"]
    made = api.post("/v1/jobs/bulk", {"jobs": [body]}, headers=blind).json["jobs"]
    assert made[0]["input"]["prompt"] == "mine"
