"""schemathesis reads the published document and tries what it says, and what it forbids."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from shared.accounts.keys import KeyStore
from shared.db.engine import Database
from shared.settings import Settings
from tests.servers import Qanvas, free_port, wait_until

#: A document cannot say which models, tasks, files and events there are, which times are, or how long a file
#: is.
_CONFIGURATION = """
[[operations]]
include-operation-id = ["submit_job", "submit_jobs", "upload_file", "follow_job",
  "list_dead_letters", "retry_dead_letters"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 422, 429]

[[operations]]
include-operation-id = ["get_output", "get_file_content"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 416, 429]
"""
#: examples for each operation, and the most seconds that all of them may take
_EXAMPLES, _SECONDS = 4, 45


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_server_does_what_its_document_says_whatever_is_sent(
    settings: Settings, qanvas: Callable[..., Qanvas], tmp_path: Path
) -> None:
    _, secret = KeyStore(Database(settings.database_url)).create("test")
    settings = settings.with_(port=free_port())
    server = qanvas("api", settings=settings)
    url = f"http://127.0.0.1:{settings.port}"

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz", timeout=30).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(ready, 60, what=f"the server: {server.said()}")
    (tmp_path / "schemathesis.toml").write_text(_CONFIGURATION)
    program = [sys.executable, "-c", "from schemathesis.cli import schemathesis as run; run()"]
    options = ["--config-file", str(tmp_path / "schemathesis.toml"), "run", f"{url}/openapi.json"]
    options += ["--header", f"Authorization: Bearer {secret}", "--checks", "all"]
    options += ["--phases", "coverage,fuzzing", "--max-examples", str(_EXAMPLES)]
    options += ["--max-time", str(_SECONDS), "--seed", "7", "--no-shrink", "--continue-on-failure"]
    options += [
        "--generation-database",
        "none",
        "--request-timeout",
        "60",
        "--max-response-time",
        "60",
        "--warnings",
        "off",
    ]
    done = subprocess.run(
        [*program, *options],
        cwd=tmp_path,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]
    assert "Traceback" not in server.said()
    assert ready()
