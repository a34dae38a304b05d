"""A database that can be read and not written, as a PostgreSQL after a failover."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from api.app import create_app
from shared.settings import Settings
from tests.api.helpers import Api


@pytest.fixture
def read_only(settings: Settings) -> Iterator[Flask]:
    """The application on such a database."""
    url = settings.database_url
    if url.startswith("sqlite:"):
        url = f"sqlite:///file:{url.removeprefix('sqlite:///')}?mode=ro&uri=true"
    else:
        url += "?options=-c%20default_transaction_read_only%3Don"
    app = create_app(settings.with_(database_url=url))
    yield app
    app.extensions["qanvas"].close()


def test_what_is_there_is_read_and_what_is_submitted_is_refused_until_later(
    api: Api, read_only: Flask
) -> None:
    job = api.submit()
    other = Api(read_only)
    assert other.get(f"/v1/jobs/{job['id']}").json["id"] == job["id"]
    for refused in (
        other.post("/v1/jobs", {"model": "fake", "input": {"prompt": "x"}}),
        other.post(job["urls"]["cancel"]),
        other.get("/readyz"),
    ):
        assert refused.status_code == 503 and refused.headers["Retry-After"], refused.text
        assert refused.json["detail"] == "the database cannot be written; the server's log says why"
