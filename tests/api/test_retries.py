"""What clients see of attempts that failed."""

from __future__ import annotations

from datetime import datetime

from tests.api.helpers import Api, Hand


def test_a_job_that_waits_for_its_next_attempt_says_until_when(hand: Hand, api: Api) -> None:
    path = api.submit()["urls"]["self"]
    job = hand.claim()
    hand.fail(job, type="out-of-memory", retryable=True)
    shown = api.get(path).json
    assert (shown["status"], shown["attempts"], shown["error"]) == ("queued", 1, None)
    due_at = shown["waiting"].pop("due_at")
    assert shown["waiting"] == {"reason": "retry-backoff", "position": None, "estimate": None}
    assert datetime.fromisoformat(due_at) >= datetime.fromisoformat(shown["started_at"])
    assert [one["id"] for one in api.get("/v1/jobs?status=queued").json["data"]] == [job.id]
