"""Outputs: the bytes, in whole and in part."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.helpers import Api, Hand, png

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

CONTENT = png(50, 50)
SIZE = len(CONTENT)


@pytest.fixture
def output(hand: Hand, api: Api) -> Any:
    api.submit()
    return api.get(f"/v1/jobs/{hand.succeed(hand.claim(), CONTENT).id}").json["outputs"][0]


def test_an_output_has_its_type_and_its_hash(api: Api, output: Any) -> None:
    answer = api.get(output["url"])
    assert answer.data == CONTENT and answer.mimetype == "image/png"
    assert answer.headers["ETag"] == f'"{output["sha256"]}"'
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Disposition"].endswith('-0.png"')
    again = api.get(output["url"], headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304 and again.data == b""
    head = api.call("HEAD", output["url"])
    assert head.data == b"" and head.headers["Content-Length"] == str(SIZE)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-9", CONTENT[:10]),
        ("bytes=5-", CONTENT[5:]),
        ("bytes=-7", CONTENT[-7:]),
        (f"bytes=10-{SIZE * 9}", CONTENT[10:]),
        (f"bytes={SIZE - 1}-", CONTENT[-1:]),
    ],
)
def test_a_range_is_answered_with_that_part(api: Api, output: Any, wanted: str, expected: bytes) -> None:
    answer = api.get(output["url"], headers={"Range": wanted})
    assert answer.status_code == 206 and answer.data == expected
    assert answer.headers["Content-Length"] == str(len(expected))
    assert answer.headers["Content-Range"].endswith(f"/{SIZE}")


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", f"bytes={SIZE * 9}-{SIZE * 10}"])
def test_a_range_out_of_bounds_is_a_problem_that_names_the_size(api: Api, output: Any, wanted: str) -> None:
    answer = api.get(output["url"], headers={"Range": wanted})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"
    detail = answer.get_json()["detail"]
    assert detail == f"Range: {wanted} begins behind the end; there are {SIZE} bytes, from 0 to {SIZE - 1}"


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=5-2",
        "bytes=",
        "bytes=a-b",
        "nonsense",
        "items=0-1",
        "bytes=0-1,4-5",
        "bytes=--1",
        f"bytes=-{SIZE * 9}",
        "",
    ],
)
def test_a_range_that_is_none_is_ignored(api: Api, output: Any, wanted: str) -> None:
    answer = api.get(output["url"], headers={"Range": wanted})
    assert answer.status_code == 200 and answer.data == CONTENT


def test_a_range_of_what_has_changed_gives_all_of_it(api: Api, output: Any) -> None:
    same = {"Range": "bytes=0-9", "If-Range": f'"{output["sha256"]}"'}
    assert api.get(output["url"], headers=same).status_code == 206
    assert api.get(output["url"], headers=same | {"If-Range": '"other"'}).status_code == 200


def test_an_output_whose_bytes_are_gone_is_not_found(hand: Hand, api: Api, output: Any) -> None:
    hand.services.storage.delete_prefix("outputs")
    assert api.get(output["url"]).status_code == 404
