"""Jobs over HTTP: submitted, seen, listed, canceled, retried, deleted."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from api.usecases.services import Services
from shared.messaging.events import STOP
from shared.messaging.subscriber import Subscriber
from tests.api.helpers import Api, Hand, faults, jobs_there, png
from tests.servers import wait_until


def test_a_submitted_job_has_its_defaults_filled_in_and_its_seed_resolved(
    api: Api, services: Services
) -> None:
    answer = api.post(
        "/v1/jobs", {"model": "fake", "input": {"prompt": "a red apple"}, "metadata": {"a": [1, None]}}
    )
    job = answer.json
    assert answer.status_code == 202
    assert answer.headers["Location"] == job["urls"]["self"] == f"/v1/jobs/{job['id']}"
    assert job["status"] == "queued" and job["priority"] == 5 and job["max_attempts"] == 3
    assert isinstance(job["input"]["seed"], int) and job["input"]["steps"] > 0
    assert job["metadata"] == {"a": [1, None]}
    assert job["timings"] == {"queue": None, "load": None, "run": None}
    assert api.get(f"/v1/jobs/{job['id']}").json == job
    wait_until(lambda: services.tickets.waiting("default") == 1, what="a ticket")


def test_a_task_without_a_model_takes_a_model_for_it(api: Api) -> None:
    answer = api.post("/v1/jobs", {"task": "text-to-image", "input": {"prompt": "x"}})
    assert answer.status_code == 202
    assert answer.json is not None and answer.json["task"] == "text-to-image"


def test_a_job_without_a_worker_says_so(api: Api) -> None:
    waiting = {"reason": "no-worker-for-model", "position": None, "estimate": None}
    assert api.submit()["waiting"] == waiting


def test_a_job_knows_how_many_are_before_it(hand: Hand, api: Api) -> None:
    first, second = api.submit(), api.submit()
    urgent = api.submit(priority=9)
    assert [job["waiting"]["position"] for job in (first, second, urgent)] == [0, 1, 0]
    found = [api.get(job["urls"]["self"]).json["waiting"] for job in (urgent, first, second)]
    assert [waiting["position"] for waiting in found] == [0, 1, 2]
    assert {waiting["reason"] for waiting in found} == {"behind-others"}


def test_a_job_for_later_is_scheduled_and_gets_no_ticket(api: Api, services: Services) -> None:
    job = api.submit(run_at="2099-01-01T00:00:00+01:00")
    assert job["status"] == "scheduled"
    assert job["run_at"] == "2098-12-31T23:00:00.000Z"
    assert job["waiting"] == {"reason": "scheduled", "position": None, "estimate": None}
    time.sleep(0.2)
    assert services.tickets.waiting("default") == 0


def test_a_running_job_shows_its_progress(hand: Hand, api: Api) -> None:
    api.submit()
    job = hand.claim()
    hand.services.events.publish(job.id, "progress", {"stage": "denoise", "step": 8, "total": 20})
    expected = {"stage": "denoise", "step": 8, "total": 20, "fraction": 0.4}
    wait_until(lambda: api.get(f"/v1/jobs/{job.id}").json["progress"] == expected)
    assert api.get("/v1/jobs?status=running").json["data"][0]["progress"] == expected


def test_a_finished_job_names_its_outputs(hand: Hand, api: Api) -> None:
    api.submit()
    done = hand.succeed(hand.claim(), png(), load_seconds=0.5)
    job = api.get(f"/v1/jobs/{done.id}").json
    assert job["status"] == "succeeded" and job["error"] is None and job["progress"] is None
    assert job["timings"]["load"] == 0.5 and job["timings"]["run"] >= 0
    [output] = job["outputs"]
    assert output["media_type"] == "image/png" and output["bytes"] == len(png())
    assert api.get(output["url"]).data == png()


def test_an_unchanged_job_is_answered_with_304(api: Api) -> None:
    path = api.submit()["urls"]["self"]
    etag = api.get(path).headers["ETag"]
    again = api.get(path, headers={"If-None-Match": etag})
    assert again.status_code == 304 and again.data == b""
    api.post(f"{path}/cancel")
    assert api.get(path, headers={"If-None-Match": etag}).status_code == 200


def test_prefer_wait_answers_with_the_finished_job(hand: Hand, api: Api) -> None:
    def work() -> None:
        wait_until(lambda: jobs_there(hand.services) == 1)
        hand.succeed(hand.claim(), png())

    worker = threading.Thread(target=work)
    worker.start()
    answer = api.post(
        "/v1/jobs", {"model": "fake", "input": {"prompt": "x"}}, headers={"Prefer": "respond-async, wait=20"}
    )
    worker.join()
    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert answer.json is not None and answer.json["status"] == "succeeded"


def test_prefer_wait_that_runs_out_answers_202(api: Api) -> None:
    began = time.monotonic()
    answer = api.post("/v1/jobs", {"model": "fake", "input": {"prompt": "x"}}, headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert time.monotonic() - began > 0.9


@pytest.mark.parametrize("prefer", ["", "wait=x", "handling=lenient", "wait=-1", "await=5"])
def test_a_preference_that_is_none_of_ours_is_ignored(api: Api, prefer: str) -> None:
    answer = api.post("/v1/jobs", {"model": "fake", "input": {"prompt": "x"}}, headers={"Prefer": prefer})
    assert answer.status_code == 202 and "Preference-Applied" not in answer.headers


def test_get_with_wait_answers_as_soon_as_the_job_ends(hand: Hand, api: Api) -> None:
    path = api.submit()["urls"]["self"]
    job = hand.claim()
    timer = threading.Timer(0.3, lambda: hand.succeed(job))
    timer.start()
    began = time.monotonic()
    assert api.get(f"{path}?wait=30").json["status"] == "succeeded"
    assert time.monotonic() - began < 20  # of 30 that it would have waited
    timer.join()


def test_waiting_works_while_redis_is_away(hand: Hand, api: Api, valkey: Any) -> None:
    path = api.submit()["urls"]["self"]
    job = hand.claim()
    hand.services.follower._url = "redis://127.0.0.1:1/0"
    timer = threading.Timer(0.3, lambda: hand.succeed(job))
    timer.start()
    began = time.monotonic()
    assert api.get(f"{path}?wait=30").json["status"] == "succeeded"
    assert time.monotonic() - began < 20  # of 30 that it would have waited
    timer.join()


def test_the_same_idempotency_key_gives_the_same_job(api: Api, services: Services) -> None:
    key = {"Idempotency-Key": "order-17"}
    body = {"model": "fake", "input": {"prompt": "x", "width": 64}}
    first = api.post("/v1/jobs", body, headers=key)
    reordered = {"input": {"width": 64, "prompt": "x"}, "model": "fake"}
    second = api.post("/v1/jobs", reordered, headers=key)
    assert "Idempotency-Replayed" not in first.headers
    assert second.status_code == 202 and second.headers["Idempotency-Replayed"] == "true"
    assert second.json == first.json
    other = api.post("/v1/jobs", {**body, "priority": 9}, headers=key)
    assert other.status_code == 422 and "order-17" in faults(other)[""]
    assert jobs_there(services) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "ümlaut"])
def test_an_idempotency_key_that_cannot_be_one_is_refused(api: Api, services: Services, key: str) -> None:
    answer = api.post(
        "/v1/jobs", {"model": "fake", "input": {"prompt": "x"}}, headers={"Idempotency-Key": key}
    )
    assert answer.status_code == 422 and jobs_there(services) == 0


def test_many_clients_at_once_each_get_their_own_job(api: Api, app: Any, services: Services) -> None:
    ids: list[str] = []

    def submit() -> None:
        client = Api(app)
        ids.extend(client.submit(metadata={"n": n})["id"] for n in range(10))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 80 == jobs_there(services)


def test_lists_are_newest_first_in_pages(api: Api) -> None:
    ids = [api.submit(group="apples")["id"] for _ in range(5)]
    api.submit(group="pears")
    page = api.get("/v1/jobs?group=apples&limit=2").json
    seen = [job["id"] for job in page["data"]]
    while page["next_cursor"]:
        page = api.get(f"/v1/jobs?group=apples&limit=2&cursor={page['next_cursor']}").json
        seen += [job["id"] for job in page["data"]]
    assert seen == ids[::-1]


def test_lists_are_filtered(api: Api) -> None:
    job = api.submit()
    api.post(f"{api.submit()['urls']['self']}/cancel")
    assert [one["id"] for one in api.get("/v1/jobs?status=queued&model=fake").json["data"]] == [job["id"]]
    assert api.get("/v1/jobs?task=text-to-video").json == {"data": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("status=lost", "/status"),
        ("limit=0", "/limit"),
        ("limit=1001", "/limit"),
        ("limit=ten", "/limit"),
        ("limit=5&limit=6", "/limit"),
        ("cursor=nonsense", "/cursor"),
        ("cursor=%00", "/cursor"),
        ("colour=red", "/colour"),
        ("model=%00", "/model"),
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(api: Api, query: str, pointer: str) -> None:
    answer = api.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422 and pointer in faults(answer)


def test_a_waiting_job_is_canceled_at_once(api: Api) -> None:
    path = api.submit()["urls"]["self"]
    answer = api.post(f"{path}/cancel")
    assert answer.status_code == 202
    assert answer.json is not None and answer.json["status"] == "canceled"
    assert answer.json["error"]["type"] == "canceled"
    again = api.post(f"{path}/cancel")
    assert again.status_code == 409 and "canceled" in again.json["detail"]


def test_a_running_job_is_asked_to_stop(hand: Hand, api: Api) -> None:
    path = api.submit()["urls"]["self"]
    hand.claim()
    answer = api.post(f"{path}/cancel")
    assert answer.status_code == 202
    assert answer.json is not None and answer.json["status"] == "running"


def test_an_ended_job_is_retried_as_a_new_one(api: Api, services: Services) -> None:
    old = api.submit(metadata={"for": "me"})
    assert api.post(f"{old['urls']['self']}/retry").status_code == 409
    api.post(old["urls"]["cancel"])
    answer = api.post(f"{old['urls']['self']}/retry")
    assert answer.status_code == 201
    new = answer.json
    assert new is not None and new["id"] != old["id"] and new["input"] == old["input"]
    assert answer.headers["Location"] == new["urls"]["self"]
    assert new["metadata"] == {"for": "me", "retry_of": old["id"]}
    wait_until(lambda: services.tickets.waiting("default") == 2)


def test_a_deleted_job_is_gone_with_its_files(hand: Hand, api: Api) -> None:
    path = api.submit()["urls"]["self"]
    assert api.delete(path).status_code == 409
    done = hand.succeed(hand.claim(), png())
    [output] = api.get(path).json["outputs"]
    assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404
    assert api.get(output["url"]).status_code == 404
    assert list(hand.services.storage.list(f"outputs/{done.id}")) == []
    assert api.delete(path).status_code == 404


def test_a_preview_is_there_once_a_worker_made_one(hand: Hand, api: Api) -> None:
    path = api.submit()["urls"]["self"]
    assert api.get(f"{path}/preview").status_code == 404
    job = hand.claim()
    hand.services.events.publish(job.id, "preview", {"step": 3}, preview=png())
    wait_until(lambda: api.get(f"{path}/preview").status_code == 200)
    answer = api.get(f"{path}/preview")
    assert answer.data == png() and answer.mimetype == "image/png"


def test_a_group_is_counted_and_canceled_together(hand: Hand, api: Api) -> None:
    api.submit(group="apples", priority=9)
    hand.claim()
    for _ in range(2):
        api.submit(group="apples")
    assert api.get("/v1/groups/apples").json == {"group": "apples", "counts": {"running": 1, "queued": 2}}
    answer = api.post("/v1/groups/apples/cancel")
    assert answer.status_code == 202
    assert answer.json == {"group": "apples", "counts": {"running": 1, "canceled": 2}}
    assert api.get("/v1/groups/pears").status_code == 404
    assert api.post("/v1/groups/pears/cancel").status_code == 404


def test_many_jobs_are_accepted_together(api: Api, services: Services) -> None:
    body = {"jobs": [{"model": "fake", "input": {"prompt": f"{n}"}} for n in range(20)]}
    answer = api.post("/v1/jobs/bulk", body)
    assert answer.status_code == 202
    assert answer.json is not None
    assert [job["input"]["prompt"] for job in answer.json["jobs"]] == [str(n) for n in range(20)]
    wait_until(lambda: services.tickets.waiting("default") == 20)


def test_of_many_jobs_one_bad_one_refuses_all(api: Api, services: Services) -> None:
    jobs = [{"model": "fake", "input": {"prompt": "x"}} for _ in range(20)]
    jobs[17] = {"model": "fake", "input": {"prompt": "x", "width": 65}}
    jobs[3] = {"model": "nobody's", "input": {}}
    answer = api.post("/v1/jobs/bulk", {"jobs": jobs})
    assert answer.status_code == 422
    assert set(faults(answer)) == {"/jobs/3/model", "/jobs/17/input/width"}
    assert jobs_there(services) == 0
    assert api.post("/v1/jobs/bulk", {"jobs": []}).status_code == 422
    unknown = api.post("/v1/jobs/bulk", {"jobs": [{"model": "fake", "prio": 3}]})
    assert list(faults(unknown)) == ["/jobs/0/prio"]
    keyed = api.post("/v1/jobs/bulk", {"jobs": jobs[:1]}, headers={"Idempotency-Key": "x"})
    assert keyed.status_code == 422 and jobs_there(services) == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_is_told_at_once_that_its_job_was_canceled(api: Api, hand: Hand, services: Services) -> None:
    heard: list[bytes] = []
    listener = Subscriber(services.settings.redis_url, STOP, heard.append)
    listener.start()
    wait_until(lambda: listener.connected, what="the subscription")
    id = api.submit(group="g")["id"]
    hand.claim()
    assert api.post(f"/v1/jobs/{id}/cancel").status_code == 202
    wait_until(lambda: heard == [id.encode()], what="word of the cancel")
    assert api.post("/v1/groups/g/cancel").status_code == 202
    wait_until(lambda: heard == [id.encode()] * 2, what="word of the group's cancel")
    listener.close()


def test_the_path_of_many_jobs_is_no_jobs_path(api: Api) -> None:
    refused = api.get("/v1/jobs/bulk")
    assert refused.status_code == 405
    assert set(refused.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}


def test_a_group_may_be_called_what_a_path_of_jobs_is_called(api: Api) -> None:
    api.submit(group="bulk")
    assert api.get("/v1/groups/bulk").json["counts"] == {"queued": 1}
    assert api.post("/v1/groups/bulk/cancel").json["counts"] == {"canceled": 1}
