"""Jobs that depend on others, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.helpers import Api, Hand, faults, jobs_there, png
from tests.servers import wait_until

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
NOBODY = "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"


def train(dataset: Any, **body: Any) -> dict[str, Any]:
    return {"model": "train-text", "input": {"dataset": dataset, "name": "mine"}, **body}


def test_a_job_waits_for_those_that_it_depends_on_and_says_so(hand: Hand, api: Api) -> None:
    first = api.submit()
    second = api.submit(depends_on=[first["id"]])
    assert (second["status"], second["depends_on"]) == ("scheduled", [first["id"]])
    assert second["waiting"] == {"reason": "depends-on", "position": None, "estimate": None}
    hand.succeed(hand.claim())
    hand.services.completion.settle()
    assert api.get(second["urls"]["self"]).json["status"] == "queued"
    wait_until(lambda: hand.services.tickets.waiting("default") == 2, what="a ticket for the second")


def test_canceling_a_job_fails_those_that_wait_for_it_and_their_watchers_hear_of_it(api: Api) -> None:
    first = api.submit()
    second = api.submit(depends_on=[first["id"]])
    third = api.submit(depends_on=[second["id"]])
    api.post(first["urls"]["cancel"])
    shown = api.get(f"{third['urls']['self']}?wait=20").json
    assert shown["status"] == "failed" and shown["error"]["type"] == "dependency-failed"
    assert first["id"] in shown["error"]["message"]
    stream = api.get(third["urls"]["events"]).text
    assert '"status":"scheduled"' in stream and "event: done" in stream


@one_database
def test_a_job_that_is_not_there_cannot_be_depended_on(api: Api, hand: Hand) -> None:
    known = api.submit()["id"]
    body = {"model": "fake", "input": {"prompt": "x"}, "depends_on": [known, NOBODY]}
    answer = api.post("/v1/jobs", body)
    assert answer.status_code == 422
    assert faults(answer) == {"/depends_on/1": f"no job '{NOBODY}'"}
    bulk = api.post("/v1/jobs/bulk", {"jobs": [{"model": "fake", "input": {"prompt": "x"}}, body]})
    assert list(faults(bulk)) == ["/jobs/1/depends_on/1"]
    assert jobs_there(hand.services) == 1


@one_database
def test_jobs_of_one_call_may_depend_on_the_same_job(hand: Hand, api: Api) -> None:
    first = api.submit()["id"]
    one = {"model": "fake", "input": {"prompt": "x"}, "depends_on": [first], "group": "g"}
    made = api.post("/v1/jobs/bulk", {"jobs": [one] * 50}).json["jobs"]
    assert {job["status"] for job in made} == {"scheduled"}
    hand.succeed(hand.claim())
    hand.services.completion.settle()
    assert api.get("/v1/groups/g").json["counts"] == {"queued": 50}


@one_database
def test_an_output_of_another_job_is_an_input_and_makes_it_a_dependency(hand: Hand, api: Api) -> None:
    first = api.submit()["id"]
    answer = api.post("/v1/jobs", train({"job": first, "output": 0.0}))
    job = answer.json
    assert answer.status_code == 202 and job is not None
    assert (job["status"], job["depends_on"]) == ("scheduled", [first])
    assert job["input"]["dataset"] == {"job": first, "output": 0}


@one_database
def test_an_output_that_cannot_be_the_input_is_refused(hand: Hand, api: Api) -> None:
    api.submit()
    done = hand.succeed(hand.claim(), png()).id
    for dataset, pointer, said in [
        ({"job": NOBODY, "output": 0}, "/input/dataset/job", "no job"),
        ({"job": done, "output": 1}, "/input/dataset/output", "it made 1, counted from 0"),
        ({"job": done, "output": 0}, "/input/dataset", "must be text"),
        ({"job": done}, "/input/dataset", "output"),
        ({"job": "x", "output": 0}, "/input/dataset", "job_…"),
        ({"job": done, "output": -1}, "/input/dataset", "output"),
    ]:
        answer = api.post("/v1/jobs", train(dataset))
        assert answer.status_code == 422, answer.text
        assert said in faults(answer)[pointer]


@one_database
def test_the_published_schema_of_a_file_knows_references(api: Api) -> None:
    rule = api.get("/v1/models/train-text").json["input_schema"]["properties"]["dataset"]
    assert rule["x-file"] == "text" and rule["anyOf"][0]["type"] == "string"
    assert rule["anyOf"][1]["required"] == ["job", "output"]


@one_database
def test_what_others_depend_on_is_not_deleted_before_they_have_ended(hand: Hand, api: Api) -> None:
    first = api.submit()
    second = api.submit(depends_on=[first["id"]])
    job = hand.claim()
    hand.fail(job)
    answer = api.delete(first["urls"]["self"])
    assert answer.status_code == 409 and "depends on it" in answer.text
    hand.services.completion.settle()
    assert api.get(second["urls"]["self"]).json["error"]["message"].endswith("which failed: broke")
    assert api.delete(first["urls"]["self"]).status_code == 204
