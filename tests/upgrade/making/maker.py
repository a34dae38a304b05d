"""The processes of one version, and a client of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from shared.settings import Settings
from tests.servers import Qanvas, wait_until


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
