"""Who may do what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from api.app import create_app
from api.usecases.services import Services
from shared.accounts.keys import Scope
from shared.settings import Settings
from tests.api.helpers import Api, Hand, operations, png

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def app(settings: Settings) -> Any:
    """An application that other machines can reach."""
    app = create_app(settings.with_(host="0.0.0.0"))
    yield app
    app.extensions["qanvas"].close()


def key(
    services: Services, tenant: str = "default", scopes: Sequence[Scope] = ("submit", "read")
) -> dict[str, str]:
    _, secret = services.keys.create("test", tenant=tenant, scopes=scopes)
    return {"Authorization": f"Bearer {secret}"}


def test_without_a_key_everything_but_health_and_docs_is_closed(api: Api) -> None:
    id = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    for operation in operations():
        path = operation.path.replace("{id}", id).replace("{name}", "x")
        if path == "/readyz":
            continue
        answer = api.call(operation.method, path)
        if operation.scope is None:
            assert answer.status_code == 200, path
        else:
            assert answer.status_code == 401, path
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert "qanvas keys create" in answer.json["detail"]


@pytest.mark.parametrize(
    "header", ["Bearer qk_wrong", "Bearer ", "Basic abc", "qk_wrong", "Bearer é", "Bearer " + "x" * 10_000]
)
def test_a_key_that_does_not_hold_is_refused(api: Api, header: str) -> None:
    assert api.get("/v1/jobs", headers={"Authorization": header}).status_code == 401


def test_a_revoked_key_is_refused(api: Api, services: Services) -> None:
    made, secret = services.keys.create("test")
    headers = {"Authorization": f"bearer {secret}"}
    assert api.get("/v1/jobs", headers=headers).status_code == 200
    services.keys.revoke(made.id)
    assert api.get("/v1/jobs", headers=headers).status_code == 401


def test_a_key_may_do_what_its_scopes_say(api: Api, services: Services) -> None:
    reader, submitter, admin = (key(services, scopes=(scope,)) for scope in ("read", "submit", "admin"))
    body = {"model": "fake", "input": {"prompt": "x"}}
    refused = api.post("/v1/jobs", body, headers=reader)
    assert refused.status_code == 403 and "'submit'" in refused.json["detail"]
    assert api.post("/v1/jobs", body, headers=submitter).status_code == 202
    assert api.get("/v1/jobs", headers=submitter).status_code == 403
    assert api.post("/v1/jobs", body, headers=admin).status_code == 202
    assert len(api.get("/v1/jobs", headers=admin).json["data"]) == 2


def test_what_is_another_tenants_is_not_there(hand: Hand, api: Api, services: Services) -> None:
    mine, theirs = key(services, "mine"), key(services, "theirs")
    job = api.post("/v1/jobs", {"model": "fake", "input": {"prompt": "x"}, "group": "g"}, headers=mine).json
    hand.succeed(hand.claim(), png())
    output = api.get(job["urls"]["self"], headers=mine).json["outputs"][0]["url"]
    file = services.files
    assert file.list("mine") == []
    for method, path in [
        ("GET", job["urls"]["self"]),
        ("GET", job["urls"]["events"]),
        ("POST", job["urls"]["cancel"]),
        ("POST", f"{job['urls']['self']}/retry"),
        ("DELETE", job["urls"]["self"]),
        ("GET", output),
        ("GET", "/v1/groups/g"),
        ("POST", "/v1/groups/g/cancel"),
    ]:
        assert api.call(method, path, headers=theirs).status_code == 404, path
    assert api.get("/v1/jobs", headers=theirs).json["data"] == []
    assert api.get(output, headers=mine).status_code == 200


#: what is no ``Host``, though something in it is a name of this machine
NO_HOSTS = [
    "",
    " ",
    ",",
    "a,b",
    "localhost,localhost",
    "localhost, evil.example",
    "[",
    "[]",
    "[::1",
    "::1",
    "[::1]evil",
    "[::1%25lo]",
    "[localhost]",
    "127.0.0.1@evil",
    "evil@localhost",
    "@localhost",
    "localhost/.evil",
    "localhost\\.evil",
    "localhost?evil",
    "localhost#evil",
    "localhost evil",
    "localhost:http",
    "localhost:80:80",
    "localhost:99999",
    "http://localhost",
    "localhost%2eevil",
    "local..host",
    "-localhost",
    "localhost\u00e9",
]


@pytest.mark.parametrize("host", NO_HOSTS)
def test_what_is_no_host_is_refused_whoever_asks(api: Api, services: Services, host: str) -> None:
    for headers in ({}, key(services)):
        for path in ("/v1/jobs", "/healthz", "/nothing"):
            answer = api.get(path, headers={**headers, "Host": host})
            assert (answer.status_code, "Host" in answer.json["detail"]) == (400, True), answer.text


@pytest.mark.parametrize(
    "name", ["Content-Type", "If-None-Match", "Range", "Prefer", "Origin", "Host", "Idempotency-Key"]
)
def test_a_header_that_is_taken_apart_may_not_be_long(api: Api, services: Services, name: str) -> None:
    answer = api.get("/v1/jobs", headers=key(services) | {name: '"x", ' * 1000})
    assert answer.status_code == 431 and name in answer.json["detail"]


class TestOnLoopback:
    @pytest.fixture
    def app(self, settings: Settings) -> Any:
        app = create_app(settings)
        yield app
        app.extensions["qanvas"].close()

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"])
    def test_local_requests_need_no_key(self, api: Api, host: str) -> None:
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert api.get("/v1/jobs", headers=headers).status_code == 200

    def test_a_key_of_another_kind_is_no_hindrance(self, api: Api) -> None:
        assert api.get("/v1/jobs", headers={"Authorization": "Bearer sk-unused"}).status_code == 200
        assert api.get("/v1/jobs", headers={"Authorization": "Bearer qk_wrong"}).status_code == 401

    @pytest.mark.parametrize(
        "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "localhost.evil", "[2001:db8::1]:80"]
    )
    def test_a_rebound_name_is_refused(self, api: Api, host: str) -> None:
        assert api.get("/v1/jobs", headers={"Host": host}).status_code == 403

    @pytest.mark.parametrize(
        "origin",
        [
            "https://evil.example",
            "null",
            "",
            "localhost",
            "http://localhost.evil.example",
            "http://evil@localhost",
            "http://localhost/.evil",
            "http://localhost:80/",
            "http://localhost\\.evil",
            "http://localhost#evil",
            "http://localhost http://evil.example",
            "ftp://localhost",
            "//localhost",
        ],
    )
    def test_another_pages_request_is_refused(self, api: Api, origin: str) -> None:
        body = {"model": "fake", "input": {"prompt": "x"}}
        assert api.post("/v1/jobs", body, headers={"Origin": origin}).status_code == 403

    def test_what_a_browser_calls_cross_site_is_refused(self, api: Api) -> None:
        for path in ("/v1/jobs", "/metrics", "/v1/models"):
            answer = api.get(path, headers={"Sec-Fetch-Site": "cross-site"})
            assert answer.status_code == 403
            assert "QANVAS_TRUSTED_HOSTS" in answer.json["detail"]
        for site in ("same-origin", "none", "same-site"):
            assert api.get("/v1/jobs", headers={"Sec-Fetch-Site": site}).status_code == 200

    def test_health_and_docs_are_for_everybody(self, api: Api) -> None:
        for path in ("/healthz", "/openapi.json", "/docs"):
            assert api.get(path, headers={"Host": "evil.example"}).status_code == 200

    def test_a_trusted_host_is_answered(self, settings: Settings) -> None:
        app = create_app(settings.with_(trusted_hosts=("qanvas.example",)))
        api = Api(app)
        trusted = {"Host": "qanvas.example", "Origin": "https://qanvas.example"}
        assert api.get("/v1/jobs", headers=trusted).status_code == 200
        assert api.get("/v1/jobs", headers=trusted | {"Sec-Fetch-Site": "cross-site"}).status_code == 200
        assert api.get("/v1/jobs", headers=trusted | {"Origin": "https://evil.example"}).status_code == 403
        assert api.get("/v1/jobs", headers={"Host": "evil.example"}).status_code == 403
        app.extensions["qanvas"].close()

    @pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded"])
    def test_a_form_of_another_page_is_refused_by_its_media_type(self, api: Api, media_type: str) -> None:
        body = b'{"model": "fake", "input": {"prompt": "x"}}'
        assert api.post("/v1/jobs", data=body, headers={"Content-Type": media_type}).status_code == 415

    def test_once_there_is_a_key_it_is_needed(self, api: Api, services: Services) -> None:
        headers = key(services)
        assert api.get("/v1/jobs").status_code == 401
        assert api.get("/v1/jobs", headers=headers).status_code == 200

    def test_revoking_the_last_key_opens_nothing(self, api: Api, services: Services) -> None:
        made, _ = services.keys.create("only")
        services.is_keyed.forget()
        services.keys.revoke(made.id)
        services.is_keyed.forget()
        assert api.get("/v1/jobs").status_code == api.get("/metrics").status_code == 401
        assert services.keys.open() == 0
        services.is_keyed.forget()
        assert api.get("/v1/jobs").status_code == 200

    def test_opening_a_server_revokes_what_keys_there_are(self, api: Api, services: Services) -> None:
        headers = key(services)
        assert services.keys.open() == 1
        services.is_keyed.forget()
        assert api.get("/v1/jobs").status_code == 200
        assert api.get("/v1/jobs", headers=headers).status_code == 401
        headers = key(services)
        services.is_keyed.forget()
        assert api.get("/v1/jobs").status_code == 401
        assert api.get("/v1/jobs", headers=headers).status_code == 200
