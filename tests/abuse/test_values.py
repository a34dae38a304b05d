"""Hostile values in every place that takes one: refused or kept as they are, never a 5xx."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import pytest

from api.usecases.services import Services
from shared.settings import Settings
from tests.api.helpers import Api, faults, png

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

TEXTS = {
    "nul": "a\x00b",
    "surrogate": "a\ud800b",
    "reversed pair": "\udc00\ud800",
    "traversal": "../../../../etc/passwd",
    "backslashes": "..\\..\\windows",
    "absolute": "/etc/passwd",
    "quotes": "'; DROP TABLE jobs; --\"",
    "percent": "%00%2e%2e%2f",
    "direction": "\u202e\u2066evil",
    "controls": "\r\nSet-Cookie: a=b\r\n\r\n",
    "not a character": "\uffff\ufffe",
    "long": "x" * 100_000,
    "format": "{0.__class__} %s %n ${jndi:ldap://x}",
}
NUMBERS = (-1, 2**31, 2**63, 2**64, 10**400, 1e308, -1e308, 5e-324, 0.1, True, None, "1", [], {})
LIMIT = 5000  #: bytes of a refusal, however large what was refused


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "fake", "input": {"prompt": "x"}, **changes}


def bodies(text: str) -> Iterator[tuple[str, Any]]:
    yield "model", body(model=text)
    yield "task", {"task": text, "input": {}}
    yield "prompt", body(input={"prompt": text})
    yield "a name of an input", body(input={"prompt": "x", text: 1})
    yield "group", body(group=text)
    yield "metadata", body(metadata={"a": text})
    yield "deep metadata", body(metadata={"a": [{"b": [text]}]})
    yield "a name of metadata", body(metadata={text: 1})
    yield "run_at", body(run_at=text)
    yield "webhook", body(webhook={"url": text})
    yield "webhook secret", body(webhook={"url": "https://example.com", "secret": text})
    yield "webhook events", body(webhook={"url": "https://example.com", "events": [text]})
    yield "a name", {**body(), text: 1}
    yield "dataset", {"model": "train-gan", "input": {"name": "mine", "dataset": text}}
    yield "trained name", {"model": "train-gan", "input": {"name": text, "dataset": text}}
    yield "data URI", {"model": "train-gan", "input": {"name": "mine", "dataset": f"data:{text}"}}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_of_any_kind_in_any_place_is_refused_or_kept(api: Api, text: str) -> None:
    for place, sent in bodies(text):
        answer = api.post("/v1/jobs", data=json.dumps(sent), headers={"Content-Type": "application/json"})
        assert answer.status_code in (202, 413, 422), f"{place}: {answer.text[:500]}"
        if answer.status_code == 202:
            kept = api.get(answer.json["urls"]["self"]).json
            assert text in json.dumps(kept, ensure_ascii=False) or json.dumps(text)[1:-1] in json.dumps(kept)
        else:
            assert len(answer.data) < LIMIT, place


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_of_any_kind_in_a_query_or_a_path_is_refused_or_finds_nothing(api: Api, text: str) -> None:
    said = quote(text[:4000].encode("utf-8", "surrogatepass"), safe="")
    for name in ("status", "task", "model", "group", "limit", "cursor", said):
        assert api.get(f"/v1/jobs?{name}={said}").status_code in (200, 422), name
    for name in ("purpose", "after", "limit"):
        assert api.get(f"/v1/files?{name}={said}").status_code in (200, 422), name
    for path in ("jobs/{}", "jobs/{}/events", "files/{}", "outputs/{}", "models/{}", "groups/{}"):
        assert api.get(f"/v1/{path.format(said)}").status_code == 404, path


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: repr(number)[:20])
def test_numbers_of_any_size_in_any_place_are_refused_or_kept(api: Api, number: Any) -> None:
    names = ("priority", "max_attempts", "timeout", "expires_in")
    inputs = ("width", "height", "steps", "step_seconds", "seed", "memory", "crash_at_step")
    sent = [body(**{name: number}) for name in names]
    sent += [body(input={"prompt": "x", name: number}) for name in inputs]
    sent += [body(metadata={"a": number}), {"jobs": number}, number]
    for one in sent:
        answer = api.post("/v1/jobs", data=json.dumps(one), headers={"Content-Type": "application/json"})
        assert answer.status_code in (202, 422), f"{str(one)[:200]}: {answer.text[:500]}"
        if answer.status_code == 202:
            assert api.get(answer.json["urls"]["self"]).status_code == 200
    for value in ("9" * 400, "1e400", "nan", "-1", "0x10", "١"):
        assert api.get(f"/v1/jobs?limit={quote(value)}").status_code == 422


def test_json_10000_levels_deep_and_names_given_twice_are_refused(api: Api) -> None:
    deep = (
        b'{"model":"fake","input":{"prompt":"x"},"metadata":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
        b'{"model":"fake","input":{"prompt":"x"},"metadata":{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}}",
        b'{"model":"fake","input":{"prompt":"x","prompt":"y"}}',
        b'{"model":"fake","input":{"prompt":"x"},"metadata":{"a":1,"a":2}}',
    )
    for sent in deep:
        answer = api.post("/v1/jobs", data=sent, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and len(answer.data) < LIMIT


@pytest.mark.parametrize("name", TEXTS.values(), ids=TEXTS)
def test_a_files_name_leads_nowhere(api: Api, services: Services, settings: Settings, name: str) -> None:
    safe = name.encode("utf-8", "replace").decode()[:3000]
    upload = {"file": (io.BytesIO(png()), safe, "image/png")}
    answer = api.post("/v1/files", data=upload)
    assert answer.status_code in (201, 400, 422), answer.text
    root = settings.data / "storage"
    files = [path for path in settings.data.rglob("*") if path.is_file() and root not in path.parents]
    assert [path.name for path in files if "passwd" in path.name or "evil" in path.name] == []
    if answer.status_code == 201:
        file = answer.json
        assert "/" not in file["filename"]
        content = api.get(f"/v1/files/{file['id']}/content")
        assert content.data == png()
        assert content.headers["Content-Disposition"].startswith("attachment")
        assert "\n" not in content.headers["Content-Disposition"]
        assert [one.key for one in services.files.list("default")] == [f"files/{services_key(services)}"]


def services_key(services: Services) -> str:
    """The one file in the storage, whose name is ours alone."""
    [stored] = services.storage.list("files")
    return str(stored).rpartition("/")[2]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "127.0.0.1.",
        "user:pass@127.0.0.1",
        "127。0。0。1",
    ],
)
def test_an_address_inside_the_house_is_refused_at_submission(api: Api, host: str) -> None:
    for scheme in ("http", "https"):
        url = f"{scheme}://{host}/latest/meta-data"
        sent: Mapping[str, Any] = body(webhook={"url": url})
        answer = api.post("/v1/jobs", sent)
        assert answer.status_code == 422, f"{url}: {answer.text}"
        assert list(faults(answer)) == ["/webhook/url"]
        answer = api.post("/v1/jobs", {"model": "train-gan", "input": {"name": "mine", "dataset": url}})
        assert answer.status_code == 422 and "/input/dataset" in faults(answer), f"{url}: {answer.text}"


@pytest.mark.parametrize("scheme", ["file", "gopher", "ftp", "dict", "javascript", "unix", "HTTP+unix", ""])
def test_another_scheme_is_refused(api: Api, scheme: str) -> None:
    url = f"{scheme}:///etc/passwd"
    assert api.post("/v1/jobs", body(webhook={"url": url})).status_code == 422
    named = {"model": "train-gan", "input": {"name": "mine", "dataset": url}}
    assert api.post("/v1/jobs", named).status_code == 422
