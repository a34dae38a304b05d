"""What an earlier version left in the middle of its work goes on under this one, and nothing is lost.

For each version in ``versions``, on both databases; ``making`` says how they were made.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from standardwebhooks import Webhook

from shared.db import tables
from tests.engines.contexts import Recorder
from tests.servers import wait_until
from tests.upgrade.conftest import PATIENCE, TERMINAL, Opened
from tests.upgrade.fixture import missing
from worker.engines.contract.engine import Image, Work
from worker.engines.fake.engine import FakeEngine, Pixels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_tables_are_those_of_this_version(opened: Opened) -> None:
    with opened.database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []


def test_what_had_ended_is_answered_as_before(opened: Opened) -> None:
    over = [role for role, said in opened.found.jobs.items() if said["shown"]["status"] in TERMINAL]
    assert len(over) > 12
    for role in over:
        shown = opened.found.jobs[role]["shown"]
        assert missing(shown, opened.job(role), opened.found.shift) == [], role


def test_outputs_and_uploaded_files_are_there_byte_for_byte(opened: Opened) -> None:
    outputs = dict(opened.found.said["outputs"])
    for said in opened.found.jobs.values():
        for output in said["shown"]["outputs"]:
            with opened.http(said["tenant"]) as http:
                content = http.get(output["url"]).raise_for_status().content
            assert hashlib.sha256(content).hexdigest() == outputs.pop(output["id"])
    assert not outputs
    for file_id, digest in opened.found.said["files"].items():
        with opened.http() as http:
            content = http.get(f"/v1/files/{file_id}/content").raise_for_status().content
        assert hashlib.sha256(content).hexdigest() == digest


def test_keys_hold_and_show_each_tenant_its_own_jobs(opened: Opened) -> None:
    for tenant in ("default", "acme"):
        own = {said["id"] for said in opened.found.jobs.values() if said["tenant"] == tenant}
        with opened.http(tenant) as http:
            listed = http.get("/v1/jobs?limit=100").raise_for_status().json()
        assert listed["next_cursor"] is None
        assert {job["id"] for job in listed["data"]} == own
    with opened.http() as http:
        revoked = {"Authorization": f"Bearer {opened.found.said['keys']['revoked']}"}
        assert http.get("/v1/jobs", headers=revoked).status_code == 401
        assert http.get("/v1/jobs", headers={"Authorization": ""}).status_code == 401
    with opened.http("acme") as http:
        theirs = opened.found.jobs["succeeded"]
        assert http.get(f"/v1/jobs/{theirs['id']}").status_code == 404


def test_a_request_that_was_sent_before_is_answered_with_its_job(opened: Opened) -> None:
    said = opened.found.jobs["succeeded"]
    with opened.http() as http:
        again = http.post("/v1/jobs", json=said["body"], headers={"Idempotency-Key": said["idempotency_key"]})
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json()["id"] == said["id"]


def test_tenants_keep_their_limits(opened: Opened) -> None:
    with opened.database.read() as connection:
        [row] = connection.execute(sa.select(tables.tenants).where(tables.tenants.c.name == "acme"))
    assert (row.queued, row.weight, row.running) == (3, 2.0, None)


def test_what_waited_or_ran_ends_as_it_must(opened: Opened) -> None:
    going_on = {
        role: said for role, said in opened.found.jobs.items() if said["shown"]["status"] not in TERMINAL
    }
    assert len(going_on) > 15
    for role, said in going_on.items():
        if said["ends"] == "scheduled":
            assert opened.job(role)["status"] == "scheduled"
            assert missing(said["shown"], opened.job(role), opened.found.shift) == []
            continue
        job = opened.ended(role)
        assert job["status"] == said["ends"], (role, job["error"])
        assert bool(job["outputs"]) is (job["status"] == "succeeded"), role
        for name in (
            "id",
            "task",
            "model",
            "input",
            "priority",
            "max_attempts",
            "group",
            "metadata",
            "depends_on",
        ):
            assert missing(said["shown"][name], job[name], 0) == [], role


def _resuming(opened: Opened) -> dict[str, int]:
    """By role, the jobs that go on to their end, and a step that their checkpoints are beyond."""
    found = {
        role: said["resumes_at"]
        for role, said in opened.found.jobs.items()
        if "resumes_at" in said and said["ends"] == "succeeded"
    }
    assert len(found) >= 3
    return found


def test_what_was_interrupted_goes_on_from_its_checkpoint(opened: Opened) -> None:
    for role, step in _resuming(opened).items():
        opened.ended(role)
        events = opened.events(role)
        last = max(place for place, event in enumerate(events) if event.get("status") == "running")
        # a pipeline says 0 before it skips the steps that it need not take again
        taken = [event["step"] for event in events[last:] if event["type"] == "progress" and event["step"]]
        assert min(taken) >= step, f"{role} began anew: {taken}"


def test_a_job_that_was_interrupted_draws_what_an_undisturbed_one_draws(
    opened: Opened, tmp_path: Path
) -> None:
    fakes = [role for role in _resuming(opened) if opened.found.jobs[role]["shown"]["model"] == "fake"]
    assert len(fakes) == 2
    for role in fakes:
        said = opened.found.jobs[role]
        [output] = opened.ended(role)["outputs"]
        with opened.http(said["tenant"]) as http:
            content = http.get(output["url"]).raise_for_status().content
        pixels = np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))
        assert np.array_equal(pixels, _undisturbed(said["shown"]["input"], tmp_path)), role


def _undisturbed(given: dict[str, Any], scratch: Path) -> Pixels:
    work = Work(job_id="", task="text-to-image", input={**given, "step_seconds": 0})
    [image] = FakeEngine().run(None, work, Recorder(scratch)).outputs
    assert isinstance(image, Image)
    return image.pixels


def test_a_model_that_was_trained_before_is_listed_and_draws(opened: Opened) -> None:
    listed = {model["id"] for model in opened.get("/v1/models")["data"]}
    assert set(opened.found.said["models"]) <= listed
    job = opened.ended("queued for a trained model")
    [output] = job["outputs"]
    assert (output["width"], output["height"]) == (16, 16)
    if "handed back, a training" in opened.found.jobs:
        opened.ended("handed back, a training")
        assert "squares-long" in {model["id"] for model in opened.get("/v1/models")["data"]}


def test_every_webhook_that_was_not_delivered_is_delivered(opened: Opened) -> None:
    due = {
        (said["id"], f"job.{said['ends']}")
        for said in opened.found.jobs.values()
        if "webhook" in said["body"]
    }
    assert len(due) == 8

    def told() -> set[tuple[str, str]]:
        events = [json.loads(request.body) for request in opened.receiver.requests]
        return {(event["data"]["id"], event["type"]) for event in events}

    wait_until(lambda: told() >= due, PATIENCE, what=f"{due} to be told")
    assert told() == due
    for request in opened.receiver.requests:
        Webhook(opened.found.said["secret"]).verify(request.body, dict(request.headers))


def test_dead_letters_are_those_of_before_with_their_attempts(opened: Opened) -> None:
    letters = {letter["job"]["id"]: letter for letter in opened.get("/v1/dead-letters")["data"]}
    for job_id, before in opened.found.said["dead_letters"].items():
        found = letters[job_id]
        assert {"retried_as": found["retried_as"], "attempts": len(found["attempts"])} == before


def test_nothing_is_lost_and_nothing_is_doubled(opened: Opened) -> None:
    for role, said in opened.found.jobs.items():
        if said["ends"] != "scheduled":
            opened.ended(role)
    with opened.database.read() as connection:
        jobs = set(connection.execute(sa.select(tables.jobs.c.id)).scalars())
        keys = list(connection.execute(sa.select(tables.outputs.c.key)).scalars())
        leases = list(connection.execute(sa.select(tables.jobs.c.lease_until)).scalars())
    groups = opened.get("/v1/groups/spring")["counts"]
    assert sum(groups.values()) == sum(opened.found.said["group"]["counts"].values())
    assert jobs == {said["id"] for said in opened.found.jobs.values()}
    assert set(leases) == {None}
    assert len(keys) == len(set(keys))
    fakes = [role for role, said in opened.found.jobs.items() if said["shown"]["model"] == "fake"]
    assert {len(opened.job(role)["outputs"]) for role in fakes} == {0, 1}
    assert set(opened.storage.list("outputs")) == set(keys)
    wait_until(lambda: not list(opened.storage.list("checkpoints")), 30, what="checkpoints to be removed")
