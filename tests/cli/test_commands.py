"""The command line where no server is needed: refusals are one message that tells the cure."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cli.main import main
from shared.accounts.keys import KeyStore
from shared.db.engine import Database
from shared.settings import PREFIX

ROOT = Path(__file__).parents[2]


Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


def started(*arguments: str) -> Done:
    """Run `qanvas` to its end, as a process of its own."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=ROOT,
        env=inherited | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `qanvas` to its end, in this process: the same, where no process is the point."""

    def run(*arguments: str, **environment: str) -> Done:
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(PREFIX)]:
                patch.delenv(name)
            for name, text in environment.items():
                patch.setenv(name, text)
            patch.setattr(sys, "argv", ["qanvas", *arguments])
            umask = os.umask(0o022)
            try:
                with pytest.raises(SystemExit) as ended:
                    main()
            finally:
                os.umask(umask)  # which a process of its own would have taken with it
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_a_port_in_use_is_refused_and_nothing_stays_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = started("up", "--data", str(tmp_path), "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 is in use by another program; choose another with --port" in done.stderr
    assert not done.stdout
    assert not _running_on(tmp_path)


def test_listening_beyond_loopback_without_a_key_is_refused_with_the_command_that_makes_one(
    run: Run, tmp_path: Path
) -> None:
    done = started("up", "--data", str(tmp_path), "--port", "0", "--host", "0.0.0.0")
    assert done.returncode == 1
    command = f"QANVAS_DATA={tmp_path} qanvas keys create NAME"
    assert command in done.stderr
    assert not _running_on(tmp_path)
    assert run("keys", "create", "me", QANVAS_DATA=str(tmp_path)).stdout.startswith("qk_")


def test_limits_and_a_weight_are_set_listed_and_reset(run: Run, tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    run("migrate", *data)
    done = run("tenants", "set", "ann", "--running", "4", "--queued", "0", "--weight", "2.5", *data)
    assert (done.returncode, done.stderr) == (0, "ann: running 4, queued unlimited, weight 2.5\n")
    head, row = run("tenants", "list", *data).stdout.splitlines()
    assert head.split()[0] == "tenant" and "running" in head and head.split()[-1] == "weight"
    assert row.split() == ["ann", "unlimited", "4", "2.5"]
    assert "0.01 to 1000" in run("tenants", "set", "ann", "--weight", "-1", *data).stderr
    assert run("tenants", "reset", "ann", *data).returncode == 0


def test_a_key_is_made_listed_and_revoked(run: Run, tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    assert "run: qanvas migrate" in run("keys", "list", *data).stderr
    assert run("migrate", *data).returncode == 0
    made = run("keys", "create", "laptop", "--tenant", "ann", "--scope", "read", *data)
    secret = made.stdout.strip()
    database = Database(f"sqlite:///{tmp_path / 'qanvas.db'}")
    key = KeyStore(database).verify(secret)
    assert key is not None
    assert (key.name, key.tenant, key.scopes) == ("laptop", "ann", ("read",))
    listed = run("keys", "list", *data).stdout
    assert key.id in listed
    assert secret not in listed
    assert run("keys", "revoke", key.id, *data).returncode == 0
    assert KeyStore(database).verify(secret) is None
    again = run("keys", "revoke", key.id, *data)
    assert (again.returncode, again.stderr) == (1, f"qanvas: no key '{key.id}'\n")


def test_a_server_is_opened_by_a_command_that_asks_and_by_nothing_else(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    data = ("--data", str(tmp_path))
    run("migrate", *data)
    store = KeyStore(Database(f"sqlite:///{tmp_path / 'qanvas.db'}"))
    run("keys", "create", "laptop", *data)
    [key] = store.list()
    assert "qanvas keys open" in run("keys", "revoke", key.id, *data).stderr
    assert store.is_keyed()
    assert run("keys", "open", *data).returncode != 0 and store.is_keyed()
    run("keys", "create", "phone", *data)
    assert "1 keys hold no more" in run("keys", "open", "--yes", *data).stderr
    assert not store.is_keyed() and not store.any()


@pytest.mark.parametrize("command", [("migrate",), ("keys", "list"), ("tenants", "list")])
def test_a_command_that_opens_the_database_closes_it_to_other_users(
    run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    data = tmp_path / "data"
    assert run("migrate", "--data", str(data)).returncode == 0
    assert data.stat().st_mode & 0o777 == 0o700
    database = data / "qanvas.db"
    assert database.stat().st_mode & 0o777 == 0o600
    database.chmod(0o644)
    assert run(*command, "--data", str(data)).returncode == 0
    assert database.stat().st_mode & 0o777 == 0o600


def test_an_unknown_scope_names_those_there_are(run: Run, tmp_path: Path) -> None:
    run("migrate", "--data", str(tmp_path))
    done = run("keys", "create", "x", "--scope", "fly", "--data", str(tmp_path))
    assert done.returncode == 1
    assert "unknown scope 'fly'; allowed are submit, read, admin" in done.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"QANVAS_PROT": "1"}, "unknown setting QANVAS_PROT; see docs/settings.md"),
        ({"QANVAS_PORT": "http"}, "QANVAS_PORT='http'"),
        ({"QANVAS_DATABASE_URL": "mysql://x/y"}, "use sqlite:/// or postgresql://"),
    ],
)
def test_a_wrong_setting_is_named(run: Run, environment: dict[str, str], said: str, tmp_path: Path) -> None:
    done = run("migrate", **{"QANVAS_DATA": str(tmp_path)} | environment)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [("jobs",), ("models",), ("submit", "fake", "prompt=x")])
def test_a_command_without_a_server_says_how_to_start_one(
    run: Run, command: tuple[str, ...], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = run(*command, "--data", str(tmp_path), QANVAS_PORT=str(port))
    assert done.returncode == 1
    assert done.stderr == (
        f"qanvas: no server answers at http://127.0.0.1:{port}; "
        "start one with `qanvas up`, or name it with --url\n"
    )


def test_an_address_that_is_none_is_said_to_be_none(run: Run) -> None:
    done = run("jobs", "--url", "localhost")
    assert done.returncode == 1
    assert "localhost" in done.stderr


def test_wrong_usage_has_an_exit_status_of_its_own(run: Run) -> None:
    assert run("submit").returncode == 2
    assert run("dead", "retry").returncode == run("dead", "retry", "job_1", "--all").returncode == 2
    assert run("up", "--port", "70000").returncode == 2
    assert run("worker", "--slots", "0").returncode == 2


def test_help_names_every_command() -> None:
    done = started("--help")
    assert done.returncode == 0
    found = set(re.findall(r"^  ([a-z]+) {2,}", done.stdout, re.MULTILINE))
    commands = "api dead demo jobs keys migrate models submit tenants train up worker"
    assert found == set(commands.split())


def test_the_health_check_of_a_machine_without_a_worker_fails(run: Run, tmp_path: Path) -> None:
    run("migrate", "--data", str(tmp_path))
    done = run("worker", "--check", QANVAS_DATA=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "no worker on this machine" in done.stderr


def _running_on(folder: Path) -> list[psutil.Process]:
    """Processes that have the folder in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process)
    return found
