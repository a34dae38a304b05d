"""Rows of jobs and their records say the same, on every database."""

from __future__ import annotations

from dataclasses import fields

from shared.jobs import serialization
from shared.jobs.entities import Job, JobSpec, Output
from shared.jobs.store import JobStore
from shared.webhooks.subscription import ENDINGS, Webhook
from tests.jobs.factory import submit

EVERYTHING = {
    "priority": 7,
    "max_attempts": 2,
    "timeout": 12.5,
    "run_at": 4e9,
    "group": "g",
    "metadata": {"a": [1, None]},
    "webhook": Webhook(url="https://example.com/hook", events=ENDINGS, secret="whsec_x"),
    "expires_in": 60.0,
}


def test_the_record_of_a_submission_is_the_one_that_is_read_later(store: JobStore) -> None:
    needed = submit(store)
    for given in ({}, EVERYTHING, {"depends_on": (needed.id, needed.id)}):
        made = submit(store, **given)
        assert store.get(made.id) == made


def test_what_was_submitted_is_what_is_read(store: JobStore) -> None:
    made = submit(store, **EVERYTHING)
    assert {name: getattr(made, name) for name in EVERYTHING if name != "expires_in"} == {
        name: value for name, value in EVERYTHING.items() if name != "expires_in"
    }
    assert made.expires_at == made.created_at + 60.0


def test_a_retry_says_all_that_the_old_job_said_but_its_time(store: JobStore) -> None:
    old = store.cancel(submit(store, **EVERYTHING).id)
    again = store.retry(old.id)
    changed = {"run_at": None, "metadata": {**old.metadata, "retry_of": old.id}}
    for field in fields(JobSpec):
        assert getattr(again, field.name) == changed.get(field.name, getattr(old, field.name)), field.name
    assert isinstance(again, Job) and again.due_at is None


def test_no_fact_of_an_output_takes_the_place_of_what_the_api_says_of_it() -> None:
    facts = {"id": "x", "sha256": "x", "url": "x", "duration": 1.5, "width": 8}
    made = Output(
        id="out_1",
        job_id="job_1",
        index=0,
        media_type="audio/wav",
        bytes=4,
        sha256="0" * 64,
        key="k",
        facts=facts,
    )
    shown = serialization.output(made)
    assert (shown["id"], shown["sha256"], shown["url"]) == ("out_1", "0" * 64, "/v1/outputs/out_1")
    assert (shown["duration"], shown["width"], shown["height"]) == (1.5, 8, None)
