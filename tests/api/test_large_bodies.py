"""What a request's body costs: values are counted before they are made, and nobody else waits meanwhile."""

from __future__ import annotations

import base64
import http.client
import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from api.http import bodies, body_checks
from api.http.concurrency import ActiveRequests
from api.http.large_json import MOST_VALUES, Scan
from api.http.problems import BadRequest
from shared.errors import InvalidInput, TooLarge
from shared.schema.input_check import InputCheck
from tests.api.helpers import Api, faults
from tests.api.test_server import Server
from tests.servers import Qanvas, Valkey, drill_settings, free_port

sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

JSON = {"Content-Type": "application/json"}
MIB = 1 << 20
#: seconds that other requests may have to wait on a busy machine; and that refusing a body may take there
WAIT, TAKE = 1.0, 20.0


def counted(text: bytes, size: int = 65536) -> Scan:
    scan = Scan()
    for start in range(0, len(text), size):
        scan.feed(text[start : start + size])
    return scan


def values(value: Any) -> int:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(values, members))


def anything(draw: random.Random, depth: int = 0) -> Any:
    """JSON full of what makes counting hard."""
    kind = draw.randrange(4 if depth > 5 else 8)
    text = "".join(draw.choice('a"\\\n/é👍\x00[]{},:u \ud83d') for _ in range(draw.randrange(12)))
    if kind == 0:
        return draw.choice([1, -2.5, True, None, 10**30])
    if kind < 4:
        return text
    if kind < 6:
        return [anything(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {f"{text}{index}": anything(draw, depth + 1) for index in range(draw.randrange(4))}


def test_values_are_counted_exactly_wherever_the_pieces_end() -> None:
    draw = random.Random(7)
    for _ in range(2000):
        value = anything(draw)
        text = json.dumps(value, indent=draw.choice([None, 1])).encode()
        assert counted(text, draw.choice([1, 2, 3, 7, 1000])).values == values(value), text


def test_a_large_body_is_read_as_a_small_one_is() -> None:
    draw = random.Random(8)
    texts = [json.dumps(anything(draw)).encode() for _ in range(2000)]
    texts += [
        json.dumps({"a": part * 300_000, "b": [part * 30_000] * 3}, ensure_ascii=escaped).encode()
        for part in ("a", "\n", '"', "\\", "é", "👍", "a\\\n👍", "\x01")
        for escaped in (True, False)
    ]
    texts += [b'["' + part * 100_000 + b'"]' for part in (b"\\u00e9", b"\\/", b"\\", b"\\x", b"\\u12", b"\n")]
    for text in texts:
        small = outcome(partial(body_checks.parse, text))
        assert outcome(partial(body_checks.parse_large, text.decode(), counted(text))) == small, text[:200]


def outcome(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (BadRequest, InvalidInput) as error:
        return type(error), str(error)


def test_a_text_full_of_commas_is_one_value() -> None:
    prose = json.dumps({"prompt": 'well, [so] {it} "goes", on: and on, ' * 100_000}).encode()
    assert counted(prose).values == 2


def test_a_body_is_refused_before_its_values_are_made() -> None:
    scan = Scan()
    for _ in range(MOST_VALUES // 20_000 - 1):
        scan.feed(b"[]," * 20_000)
    with pytest.raises(TooLarge, match="200000 values"):
        scan.feed(b"[]," * 20_000)
    assert scan.values < MOST_VALUES + 20_001


def test_names_given_twice_are_found_in_one_pass() -> None:
    """Forty thousand names took 25 s when each was counted among all."""
    names = ",".join(f'"n{index}":1' for index in range(100_000))
    began = time.monotonic()
    with pytest.raises(BadRequest, match="'n99999' is there twice"):
        body_checks.parse(f'{{{names},"n99999":2}}'.encode())
    assert time.monotonic() - began < 5


def test_the_bodies_of_one_tenant_leave_room_for_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_PATIENCE", 0.05)
    held = bodies.Bodies(1000, ActiveRequests(1))
    held._active.begin()
    hog, next_ = bodies.Body(held, "hog"), bodies.Body(held, "hog")
    held._hold(hog, 128 * MIB)
    with pytest.raises(bodies.Busy):
        held._hold(next_, 1)
    held._hold(bodies.Body(held, "other"), 32 * MIB)
    hog.release()
    held._hold(next_, 128 * MIB)


def test_a_large_body_waits_for_those_before_it() -> None:
    """Else many at once would all be refused, each for what the others hold."""
    held = bodies.Bodies(1000, ActiveRequests(2))
    for _ in range(2):
        held._active.begin()
    first, second = bodies.Body(held, "ann"), bodies.Body(held, "ann")
    held._hold(first, 128 * MIB)
    threading.Timer(0.2, first.release).start()
    held._hold(second, 128 * MIB)
    assert (first.held, second.held) == (0, 128 * MIB)


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"depends_on": [1] * 190_000}, "/depends_on"),
        ({"depends_on": ["x"] * 190_000}, "/depends_on"),
        ({"webhook": {"url": "https://example.org", "events": list(range(100_000))}}, "/webhook/events"),
        ({"metadata": {f"n{index}": [] for index in range(100_000)}}, "/metadata"),
        ({f"n{index}": 1 for index in range(100_000)}, "/n0"),
        ({"input": {"prompt": [[]] * 190_000}}, "/input/prompt"),
        ({"input": {"prompt": {f"n{index}": [] for index in range(90_000)}}}, "/input/prompt"),
        ({"input": {f"n{index}": 1 for index in range(100_000)}}, "/input/n0"),
        ({"input": {"prompt": "x", "width": "9" * MIB}}, "/input/width"),
        ({"group": "g" * (8 * MIB)}, "/group"),
    ],
    ids=lambda value: str(value)[:40],
)
@sqlite
def test_a_large_value_is_refused_by_its_name_in_little_time(api: Api, given: Any, pointer: str) -> None:
    began = time.monotonic()
    answer = api.post("/v1/jobs", {"model": "fake", "input": {"prompt": "x"}, **given})
    assert (answer.status_code, pointer in faults(answer)) == (422, True), answer.text
    assert len(answer.data) < 10_000
    assert time.monotonic() - began < 10


@sqlite
def test_a_bulk_of_many_bad_jobs_is_refused_in_little_time(api: Api) -> None:
    began = time.monotonic()
    for job in ({}, {"model": "fake", "depends_on": [7] * 150}, {f"n{index}": 1 for index in range(150)}):
        answer = api.post("/v1/jobs/bulk", {"jobs": [job] * 1000})
        assert answer.status_code == 422 and len(faults(answer)) <= 20
    assert api.post("/v1/jobs/bulk", {"jobs": [{}] * 100_000}).status_code == 422
    assert time.monotonic() - began < 15


def test_a_schema_with_alternatives_is_judged_by_the_one_that_fits() -> None:
    either = {"oneOf": [{"type": "string", "maxLength": 9}, {"type": "array", "maxItems": 2}]}
    check = InputCheck({"type": "object", "properties": {"stop": either}})
    for given in (["x"] * 100_000, "x" * 100_000, {str(index): 1 for index in range(100_000)}):
        with pytest.raises(InvalidInput) as caught:
            check.check({"stop": given}, "/input")
        assert [fault.pointer for fault in caught.value.errors] == ["/input/stop"]


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, valkey: Valkey
) -> Iterator[Server]:
    """A server with the limits that it has by default."""
    folder = tmp_path_factory.mktemp("large")
    url = f"sqlite:///{shutil.copyfile(migrated_sqlite, folder / 'qanvas.db')}"
    settings = drill_settings(folder, url, valkey.url).with_(port=free_port())
    process = Qanvas(["api"], settings, folder / "api.out")
    server = Server(process, settings)
    yield server
    server.http.close()
    process.clean()


@contextmanager
def watched(server: Server) -> Iterator[list[float]]:
    """Seconds that each of a row of requests for ``/healthz`` took meanwhile."""
    took: list[float] = []
    over = threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.settings.port, timeout=60)
        while not (took and over.wait(0.01)):
            began = time.monotonic()
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
            took.append(time.monotonic() - began)
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield took
    finally:
        over.set()
        thread.join()


def send(server: Server, content: bytes, path: str = "/v1/jobs", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.settings.port, timeout=120)
    connection.request("POST", path, content, JSON | headers)
    answer = connection.getresponse()
    said = answer.status, answer.read()
    connection.close()
    return said


def job(prompt: bytes, more: bytes = b"") -> bytes:
    return b'{"model":"fake","input":{"prompt":' + prompt + b"}" + more + b"}"


def array(item: bytes, count: int) -> bytes:
    return b"[" + b",".join([item] * count) + b"]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (lambda: job(array(b"[]", 10_000_000)), 413),
        (lambda: job(array(b"{}", 10_000_000)), 413),
        (lambda: job(b'"x"', b',"metadata":{"a":' + array(b"{}", 5_000_000) + b"}"), 413),
        (lambda: job(array(b"[]", 199_000)), 422),
        (lambda: job(b'"x"', b',"metadata":{"a":' + array(b"{}", 199_000) + b"}"), 422),
        (lambda: job(b'"x"', b',"depends_on":' + array(b"7", 199_000)), 422),
        (lambda: b'{"jobs":' + array(b"{}", 190_000) + b"}", 422),
        (lambda: job(b'"' + b"\\n" * (15 * MIB) + b'"'), 422),
        (lambda: job(b'"' + "👍".encode() * (7 * MIB) + b'"'), 422),
        (lambda: job(array(b'"' + b"\\n" * 80 + b'"', 190_000)), 422),
        (lambda: job(b"1" * MIB), 400),
        (lambda: b"[" * (30 * MIB), 400),
        (lambda: b'{"' + b"n" * (30 * MIB) + b'":1}', 413),
        (lambda: b"{" + b",".join(b'"%d":1' % (i % 150_000) for i in range(190_000)) + b"}", 400),
        (lambda: b"{" + b",".join(b'"%d":1' % i for i in range(190_000)) + b"}", 422),
        (lambda: b" " * (31 * MIB) + job(b"7"), 422),
    ],
)
def test_a_hostile_body_keeps_nobody_else_waiting(
    server: Server, redis_url: str, content: Callable[[], bytes], status: int
) -> None:
    text = content()
    path = "/v1/jobs/bulk" if text.startswith(b'{"jobs"') else "/v1/jobs"
    with watched(server) as took:
        began = time.monotonic()
        answered, said = send(server, text, path)
        lasted = time.monotonic() - began
    assert answered == status, said
    assert lasted < TAKE and len(said) < 10_000
    assert max(took) < WAIT


@pytest.mark.slow
def test_many_large_bodies_at_once_are_read_one_after_the_other(server: Server, redis_url: str) -> None:
    photo = base64.b64encode(random.Random(1).randbytes(15 * MIB))
    content = job(b'"x","image":"data:image/png;base64,' + photo + b'"')
    with watched(server) as took, ThreadPoolExecutor() as threads:
        answers = list(threads.map(lambda _: send(server, content), range(10)))
    assert [status for status, _ in answers] == [202] * 10
    assert max(took) < WAIT


@pytest.mark.slow
def test_large_bodies_that_are_meant_pass(server: Server, redis_url: str) -> None:
    photo = base64.b64encode(random.Random(1).randbytes(8 * MIB))
    with watched(server) as took:
        body = job(b'"x","image":"data:image/png;base64,' + photo + b'"')
        status, said = send(server, body, **{"Idempotency-Key": "photo"})
        assert status == 202, said
        text = json.dumps({"jobs": [{"model": "fake", "input": {"prompt": "well, so " * 400}}] * 1000})
        status, said = send(server, text.encode(), "/v1/jobs/bulk")
        assert status == 202 and len(json.loads(said)["jobs"]) == 1000
    assert max(took) < WAIT
