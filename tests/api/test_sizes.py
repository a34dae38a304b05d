"""How large what clients send may be as rows, and how large answers grow."""

from __future__ import annotations

from typing import Any

import pytest

from api.usecases.services import Services
from api.usecases.size_limits import MOST_INPUT, MOST_METADATA
from shared.catalog.entries.model import Model, Stored
from shared.catalog.entries.serialization import to_entry
from shared.errors import JobError
from shared.jobs.entities import NewJob, NewModel
from shared.jobs.sizes import MAX_PAGE_BYTES
from shared.json_text import json_bytes
from shared.logs import one_line
from tests.api.helpers import Api, Hand, faults, jobs_there
from worker.attempts.results import MOST_RESULT, Results
from worker.engines.contract.engine import Result

sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

MIB = 1 << 20


def stored(services: Services, count: int, size: int = MIB) -> list[str]:
    """So many jobs with large inputs, as older versions let them in; their ids, the newest first."""
    new = NewJob(
        tenant="default", task="text-to-image", model="fake", queue="default", input={"prompt": "x" * size}
    )
    answers = services.jobs.submit([new] * count)
    return [answer.job.id for answer in answers][::-1]  # type: ignore[union-attr]


@sqlite
@pytest.mark.parametrize(
    "metadata", [{"a": "x" * MOST_METADATA}, {"a" * MOST_METADATA: 1}, {"a": [[]] * 9000}]
)
def test_metadata_takes_so_many_bytes_together(api: Api, services: Services, metadata: Any) -> None:
    body = {"model": "fake", "input": {"prompt": "x"}, "metadata": metadata}
    for path, pointer, given in (
        ("/v1/jobs", "/metadata", body),
        ("/v1/jobs/bulk", "/jobs/0/metadata", {"jobs": [body]}),
    ):
        answer = api.post(path, given)
        assert answer.status_code == 422 and str(MOST_METADATA) in faults(answer)[pointer]
    assert jobs_there(services) == 0


@sqlite
def test_metadata_at_the_limit_passes(api: Api) -> None:
    metadata = {f"{number:02}": "é" for number in range(63)}
    metadata["63"] = "x" * (MOST_METADATA - json_bytes({**metadata, "63": ""}))
    assert json_bytes(metadata) == MOST_METADATA
    assert api.submit(metadata=metadata)["metadata"] == metadata
    answer = api.post(
        "/v1/jobs", {"model": "fake", "input": {"prompt": "x"}, "metadata": {**metadata, "64": ""}}
    )
    assert "at most 64 names" in faults(answer)["/metadata"]


@sqlite
def test_an_input_takes_so_many_bytes_without_its_files(api: Api) -> None:
    long = "data:text/plain," + "x" * (2 * MOST_INPUT)
    training = {"model": "train-text", "input": {"dataset": long, "name": "mine"}}
    assert api.post("/v1/jobs", training, headers={"Idempotency-Key": "a"}).status_code == 202
    again = api.post("/v1/jobs", training, headers={"Idempotency-Key": "a"})
    assert again.headers["Idempotency-Replayed"] == "true"
    training["input"]["dataset"] = long + "y"
    assert api.post("/v1/jobs", training, headers={"Idempotency-Key": "a"}).status_code == 422
    answer = api.post("/v1/jobs", {"model": "fake", "input": {"prompt": long}})
    assert "/input/prompt" in faults(answer)


def test_a_page_of_jobs_ends_where_it_grows_too_large(api: Api, services: Services) -> None:
    ids = stored(services, 11)
    seen: list[str] = []
    path = "/v1/jobs?limit=200"
    while path:
        answer = api.get(path)
        assert len(answer.data) < MAX_PAGE_BYTES + 2 * MIB
        seen += [job["id"] for job in answer.json["data"]]
        cursor = answer.json["next_cursor"]
        path = f"/v1/jobs?limit=200&cursor={cursor}" if cursor else ""
    assert seen == ids


def test_a_page_of_dead_letters_counts_what_their_attempts_say(
    api: Api, services: Services, hand: Hand
) -> None:
    ids = stored(services, 9, 700_000)
    for _ in ids:
        hand.fail(hand.claim(), "broke", traceback="x" * 20_000)
    seen: list[str] = []
    path = "/v1/dead-letters?limit=200"
    while path:
        answer = api.get(path)
        assert len(answer.data) < MAX_PAGE_BYTES + 2 * MIB
        seen += [letter["job"]["id"] for letter in answer.json["data"]]
        cursor = answer.json["next_cursor"]
        path = f"/v1/dead-letters?limit=200&cursor={cursor}" if cursor else ""
    assert seen == ids


@sqlite
def test_models_are_listed_in_pages(api: Api, services: Services, hand: Hand) -> None:
    known = services.catalog.get("fake")
    for number in range(5):
        api.submit()
        schema = {**known.input_schema, "description": "x" * 600_000}
        model = Model(
            id=f"mine-{number}",
            task=known.task,
            engine="fake",
            source=Stored(f"models/{number}"),
            input_schema=schema,
            output=known.output,
        )
        hand.succeed(hand.claim(), model=NewModel(id=model.id, entry=to_entry(model)))
    fixed = [model.id for model in services.catalog.list() if not model.id.startswith("mine-")]
    for limit in (1, 3, 1000):
        seen: list[str] = []
        path = f"/v1/models?limit={limit}"
        while path:
            answer = api.get(path)
            assert len(answer.data) < MAX_PAGE_BYTES + 2 * MIB and len(answer.json["data"]) <= limit
            seen += [model["id"] for model in answer.json["data"]]
            cursor = answer.json["next_cursor"]
            path = f"/v1/models?limit={limit}&cursor={cursor}" if cursor else ""
        assert seen == fixed + [f"mine-{number}" for number in range(5)]


@sqlite
def test_a_list_of_webhooks_does_not_read_what_they_carry(api: Api, services: Services) -> None:
    job = api.submit(webhook={"url": "https://example.com/"})
    api.post(job["urls"]["cancel"])
    [delivery] = services.outbox.of_job(job["id"], limit=9)
    assert delivery.body == "" and services.outbox.of_job(job["id"], limit=9, bodies=True)[0].body


@sqlite
def test_what_a_worker_says_went_wrong_is_cut(api: Api, services: Services, hand: Hand) -> None:
    api.submit()
    failed = hand.fail(hand.claim(), "why " * MIB, traceback="t" * MIB + "the end")
    assert len(failed.error["message"]) == 2000
    [attempt] = services.attempts.of([failed.id])[failed.id]
    assert len(attempt.traceback or "") == 20_000 and (attempt.traceback or "").endswith("the end")


@sqlite
def test_a_result_too_large_for_a_row_ends_the_job_with_the_reason(
    api: Api, services: Services, hand: Hand
) -> None:
    api.submit()
    job = hand.claim()
    results = Results(services.storage)
    fits = Result(value={"text": "x" * (MOST_RESULT - 100)})
    assert results.store(job, fits, 0.0).result == fits.value
    with pytest.raises(JobError, match="at most 4194304 are kept") as caught:
        results.store(job, Result(value={"text": "x" * MOST_RESULT}), 0.0)
    assert caught.value.type == "invalid-input"


def test_what_users_sent_stays_on_its_line_of_the_log() -> None:
    assert one_line("a\nERROR forged\x1b[2J\u2028é\ud800") == "a\\nERROR forged\\x1b[2J\\u2028é\\ud800"
    assert len(one_line("x" * 100_000)) <= 301


@sqlite
def test_a_path_stays_on_its_line_of_the_log(
    api: Api, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    with services.database.write() as connection:  # as while the database is away
        connection.exec_driver_sql("ALTER TABLE models RENAME TO away")
    assert api.get("/v1/models/a%0AERROR%20forged" + "x" * 150).status_code == 503
    [line] = [record.getMessage() for record in caplog.records if "503 for" in record.getMessage()]
    assert "\\nERROR forged" in line and "\n" not in line
