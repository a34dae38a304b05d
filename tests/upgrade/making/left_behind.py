"""Jobs in every state: submitted, ended, interrupted and left waiting."""

from __future__ import annotations

import hashlib
import signal
import time
from datetime import UTC, datetime
from typing import Any

import httpx
from maker import Maker
from pictures import archive, png

from tests.servers import Qanvas, wait_until

#: nobody listens there
RECEIVER = "http://127.0.0.1:9"
SECRET = "whsec_dGhlIHNlY3JldCBvZiB0aGUgdXBncmFkZSB0ZXN0cw=="
#: seconds: the lease of the worker whose jobs are found with an expired lease, and of the one whose are not
_SHORT, _LONG = 3.0, 20.0
#: a job that is in the middle when its worker dies: 24 s, less what it computed before
_LENGTHY = {"prompt": "half done", "width": 16, "height": 16, "steps": 96, "step_seconds": 0.25}
_GAN = {"image_size": 16, "batch": 4, "width": 8, "latent": 8, "minutes": 30, "seed": 3}


def leave(maker: Maker) -> dict[str, Any]:
    """Submit jobs of every kind, and kill what runs; what the API said of them at the end."""
    keys = _keys(maker)
    api = maker.start("api")
    wait_until(lambda: _answers(maker), 180, what=f"the API: {api.said()}")
    files = {"square.png": png((200, 30, 30)), "squares.zip": archive()}
    ids = {name: maker.upload(name, content) for name, content in files.items()}
    _finish_some(maker, ids)
    dying = _leave_some_running(maker, ids)
    _leave_some_waiting(maker, ids)
    for worker in dying:
        worker.kill()
    killed = time.monotonic()
    maker.cancel(maker.canceled_later)
    time.sleep(max(0.0, killed + _SHORT + 1 - time.monotonic()))
    said = _all_said(maker, ids, files)
    api.kill()
    return {"keys": keys, "secret": SECRET, **said}


def _keys(maker: Maker) -> dict[str, str]:
    maker.run("migrate")
    maker.key = maker.run("keys", "create", "admin", "--scope", "admin")
    maker.acme = maker.run("keys", "create", "acme", "--tenant", "acme")
    revoked = maker.run("keys", "create", "gone")
    listed = maker.run("keys", "list")
    [line] = [line for line in listed.splitlines() if " gone " in line]
    maker.run("keys", "revoke", line.split()[0])
    maker.run("tenants", "set", "acme", "--queued", "3", "--weight", "2")
    return {"admin": maker.key, "acme": maker.acme, "revoked": revoked}


def _answers(maker: Maker) -> bool:
    try:
        with maker.http() as http:
            return http.get("/readyz").is_success
    except httpx.TransportError:
        return False


def _finish_some(maker: Maker, ids: dict[str, str]) -> None:
    """Jobs that have ended, in every way there is."""
    small = {"width": 16, "height": 16, "steps": 3, "seed": 7}
    maker.submit("canceled while it waited", {"prompt": "never", **small}, ends="canceled")
    maker.cancel("canceled while it waited")
    maker.submit("expired", {"prompt": "too late", **small}, ends="expired", expires_in=0.5)
    worker = maker.worker(lease_seconds=_SHORT)
    maker.wait_for("expired", "expired")
    drawn = maker.submit(
        "succeeded",
        {"prompt": "a red apple", **small},
        headers={"Idempotency-Key": "the-first"},
        group="spring",
        priority=7,
        metadata={"user": "é", "nested": {"a": [1, 2.5, None]}},
    )
    maker.submit("succeeded of a tenant", {"prompt": "theirs", **small}, tenant="acme")
    maker.submit("succeeded upon a file", {"prompt": "upon", **small, "image": ids["square.png"]})
    maker.submit(
        "succeeded upon an output", {"prompt": "upon", **small, "image": {"job": drawn, "output": 0}}
    )
    maker.submit("succeeded at its second attempt", {"prompt": "twice", **small, "fail_attempts": 1})
    maker.submit(
        "succeeded, a picture", {"prompt": "a red apple", "seed": 7, "steps": 2}, model="starter-image"
    )
    maker.wait_for("succeeded", "succeeded, a picture")  # a587f5b cannot import two kinds of engine at once
    maker.submit(
        "succeeded, a text", {"prompt": "an apple", "seed": 7, "max_tokens": 8}, model="starter-text"
    )
    maker.wait_for("succeeded", "succeeded, a text")
    given = {**_GAN, "dataset": ids["squares.zip"], "name": "squares", "steps": 20}
    maker.submit("succeeded, a training", given, model="train-gan")
    failed = maker.submit("failed", {"prompt": "f", **small, "fail_at_step": 2}, ends="failed")
    maker.submit("failed with what it needs", {"prompt": "f", **small}, ends="failed", depends_on=[failed])
    maker.submit("canceled while it ran", _LENGTHY, ends="canceled")
    maker.wait_for_step("canceled while it ran", 1)
    maker.cancel("canceled while it ran")
    maker.wait_for("canceled", "canceled while it ran")
    for role, said in maker.jobs.items():
        maker.wait_for(said["ends"], role)
    again = maker.post(f"/v1/jobs/{failed}/retry")
    maker.jobs["failed again"] = {**maker.jobs["failed"], "id": again["id"], "idempotency_key": None}
    maker.wait_for("failed", "failed again")
    maker.submit(
        "killed its worker", {"prompt": "k", **small, "crash_at_step": 2}, ends="failed", max_attempts=1
    )
    worker.wait()
    worker = maker.worker(lease_seconds=_SHORT)
    maker.wait_for("failed", "killed its worker")
    assert worker.stop() == 0, worker.said()


def _leave_some_running(maker: Maker, ids: dict[str, str]) -> list[Qanvas]:
    """The workers to be killed, in the middle of their jobs.

    What a drained worker has handed back waits behind them: they have no slot left for it. They are frozen
    while it works, so that it gets the jobs that it shall hand back."""
    to_die = [
        maker.start("worker", "--queues", "default", "--slots", slots, lease_seconds=lease)
        for slots, lease in (("1", _SHORT), ("1", _SHORT), ("2", _LONG))
    ]
    for worker in to_die:
        worker.wait_for_line("ready", 180)
        worker.process.send_signal(signal.SIGSTOP)
    drained = maker.worker(lease_seconds=_LONG, drain_seconds=0.5)
    told = {"prompt": "told", "width": 16, "height": 16, "steps": 1}
    hook = {"webhook": {"url": f"{RECEIVER}/ended", "secret": SECRET}}
    maker.submit("succeeded, to be told", told, **hook)
    maker.submit("failed, to be told", {**told, "fail_at_step": 1}, ends="failed", **hook)
    # so that its model is loaded: what follows must not end before it has begun
    maker.submit("succeeded, another picture", {"prompt": "a blue rocket", "steps": 1}, model="starter-image")
    maker.wait_for("succeeded", "succeeded, another picture")
    # its checkpoint is most of an archive: once is enough
    if maker.settings.database_url.startswith("sqlite"):
        given = {**_GAN, "dataset": ids["squares.zip"], "name": "squares-long", "steps": 1500}
        maker.submit("handed back, a training", given, model="train-gan")
        maker.wait_for_step("handed back, a training", 20)
    picture = {"prompt": "a red apple", "seed": 7, "steps": 150}
    maker.submit("handed back, a picture", picture, model="starter-image", priority=0)
    maker.wait_for_step("handed back, a picture", 5)
    assert drained.stop() == 0, drained.said()
    # as many as there are slots, so that what was handed back waits
    lengthy = ["running of a tenant", *(f"running, {number}" for number in range(3))]
    for seed, role in enumerate(lengthy):
        tenant = "default" if seed else "acme"
        maker.submit(role, {**_LENGTHY, "seed": seed}, tenant=tenant, **hook)
    for worker in to_die:
        worker.process.send_signal(signal.SIGCONT)
    for role in lengthy:
        maker.wait_for_step(role, 8)
        wait_until(
            lambda role=role: maker.jobs[role]["id"] in maker.kept(), 30, what=f"a checkpoint of {role}"
        )
    first, second, holding = to_die
    lost, freed = _held_by(maker, first, lengthy), _held_by(maker, second, lengthy)
    first.kill()
    maker.wait_for("queued", lost)
    given = {"prompt": "backoff", "width": 16, "height": 16, "fail_attempts": 1}
    maker.submit("waiting for its second attempt", given, priority=9)
    # a job whose worker died shares no step with others: it gets a worker that has no other job
    maker.jobs[freed]["ends"] = "canceled"
    maker.cancel(freed)
    maker.wait_for("running", lost)
    maker.wait_for_step(lost, 14)
    later, goes_on = sorted(role for role in lengthy if role not in (lost, freed))
    maker.jobs[later]["ends"] = "canceled"
    maker.canceled_later, maker.goes_on = later, maker.jobs[goes_on]["id"]
    return [second, holding]


def _held_by(maker: Maker, worker: Qanvas, roles: list[str]) -> str:
    """The job that runs on a worker with one slot."""
    [row] = [one for one in maker.get("/v1/workers")["data"] if one["pid"] == worker.pid]
    [role] = [role for role in roles if maker.jobs[role]["id"] in row["running"]]
    return role


def _leave_some_waiting(maker: Maker, ids: dict[str, str]) -> None:
    """Jobs that nobody has begun."""
    small = {"width": 16, "height": 16, "steps": 4}
    hook = {"webhook": {"url": f"{RECEIVER}/late", "secret": SECRET}}
    now = time.time()
    waiting = maker.submit("queued", {"prompt": "q", "seed": 1, **small}, **hook)
    for number in range(3):
        maker.submit(f"queued of a tenant, {number}", {"prompt": "q", "seed": number, **small}, tenant="acme")
    maker.submit("queued, urgent", {"prompt": "u", "seed": 2, **small}, priority=9, group="spring")
    maker.submit("queued upon a file", {"prompt": "f", "seed": 3, **small, "image": ids["square.png"]})
    maker.submit("queued for a trained model", {"label": "red", "seed": 4}, model="squares")
    maker.submit("scheduled soon", {"prompt": "s", "seed": 5, **small}, run_at=_time(now + 15))
    maker.submit(
        "scheduled far", {"prompt": "s", "seed": 6, **small}, ends="scheduled", run_at=_time(now + 864e3)
    )
    maker.submit("dependent", {"prompt": "d", "seed": 7, **small}, depends_on=[waiting], **hook)
    upon = {"prompt": "d", "seed": 8, **small, "image": {"job": maker.goes_on, "output": 0}}
    chain = maker.submit("dependent upon an output", upon)
    maker.submit("dependent upon a dependent", {"prompt": "d", "seed": 9, **small}, depends_on=[chain])
    maker.submit("to expire", {"prompt": "e", "seed": 10, **small}, ends="expired", expires_in=1)
    maker.submit(
        "to be given up",
        {"prompt": "g", "seed": 11, **small, "fail_attempts": 9},
        ends="failed",
        max_attempts=1,
    )


def _all_said(maker: Maker, ids: dict[str, str], files: dict[str, bytes]) -> dict[str, Any]:
    """All answers that a later version has to give as well."""
    jobs = {role: {**said, "shown": maker.shown(role)} for role, said in maker.jobs.items()}
    running = [said for said in jobs.values() if said["shown"]["status"] == "running"]
    assert len(running) == 3, running
    assert {said["shown"]["attempts"] for said in running} == {1, 2}, running
    for said in running:  # the engine keeps a checkpoint each second
        said["resumes_at"] = 4
    for role, step in (("handed back, a training", 20), ("handed back, a picture", 5)):
        if role in jobs:
            jobs[role]["resumes_at"] = step
    for role, said in jobs.items():
        assert "resumes_at" not in said or said["id"] in maker.kept(), f"{role} has no checkpoint"
    outputs = {}
    for said in jobs.values():
        with maker.http(maker.acme if said["tenant"] == "acme" else "") as http:
            for output in said["shown"]["outputs"]:
                content = http.get(output["url"]).raise_for_status().content
                outputs[output["id"]] = hashlib.sha256(content).hexdigest()
    letters = maker.get("/v1/dead-letters")["data"]
    return {
        "jobs": jobs,
        "outputs": outputs,
        "files": {ids[name]: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "models": [one["id"] for one in maker.get("/v1/models")["data"]],
        "dead_letters": {
            one["job"]["id"]: {"retried_as": one["retried_as"], "attempts": len(one["attempts"])}
            for one in letters
        },
        "group": maker.get("/v1/groups/spring"),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
