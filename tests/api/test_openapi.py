"""The OpenAPI document: complete, made of schemas that compile, and a page that shows it offline."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from jsonschema_rs import Draft202012Validator

from tests.api.helpers import Api

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def document(api: Api) -> Any:
    return api.get("/openapi.json").json


def test_every_route_is_declared(app: Flask, document: Any) -> None:
    routed = {
        (re.sub(r"<name\(.*?\):(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    declared = {(path, method) for path, verbs in document["paths"].items() for method in verbs}
    assert routed - declared == {("/", "get")} and declared <= routed


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/bulk", "/v1/jobs/job_x", "/v1/dead-letters/retry"])
def test_a_path_allows_the_methods_that_are_published_for_it(path: str, app: Flask, document: Any) -> None:
    published = {verb.upper() for verb in document["paths"][path.replace("job_x", "{id}")]}
    allowed = {method.strip() for method in app.test_client().options(path).headers["Allow"].split(",")}
    assert allowed - {"HEAD", "OPTIONS"} == published


def test_every_schema_compiles_and_every_reference_leads_somewhere(document: Any) -> None:
    named = document["components"]["schemas"]

    def schemas(value: Any) -> Any:
        if isinstance(value, dict):
            if isinstance(value.get("schema"), dict):
                yield value["schema"]
            if isinstance(reference := value.get("$ref"), str):
                assert reference.removeprefix("#/components/schemas/") in named
            for member in value.values():
                yield from schemas(member)
        elif isinstance(value, list):
            for member in value:
                yield from schemas(member)

    found = list(schemas(document)) + list(named.values())
    assert len(found) > 50
    for schema in found:
        Draft202012Validator({**schema, "components": document["components"]})


def test_the_document_is_what_openapi_asks_for(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    ids = [verb["operationId"] for verbs in document["paths"].values() for verb in verbs.values()]
    assert len(ids) == len(set(ids))
    for path, verbs in document["paths"].items():
        for verb in verbs.values():
            named = [one["name"] for one in verb["parameters"] if one["in"] == "path"]
            assert named == re.findall(r"{(\w+)}", path)
            assert verb["summary"] and verb["responses"]
            assert all(answer["description"] for answer in verb["responses"].values())


def test_the_schema_that_validates_is_the_one_that_is_published(api: Api, document: Any) -> None:
    published = document["components"]["schemas"]["Submission"]
    validator = Draft202012Validator(published, validate_formats=True)
    for body in ({}, {"model": "fake", "input": {"prompt": "x"}}, {"model": "fake", "x": 1}, {"task": 1}):
        refused = api.post("/v1/jobs", body).status_code == 422
        assert refused is not validator.is_valid(body)


def test_the_page_needs_nothing_from_elsewhere(api: Api) -> None:
    answer = api.get("/docs")
    assert answer.mimetype == "text/html"
    assert set(re.findall(r"(?:src|href)=\S+?(?=[\s>])", answer.text)) == {'href="/openapi.json"'}
    assert not re.search(r"https?://(?!HOST)", answer.text)
    start = api.get("/")
    assert start.status_code == 302 and start.headers["Location"] == "/docs"
