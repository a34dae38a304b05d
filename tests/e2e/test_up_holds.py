"""`qanvas up` where things go wrong around it: a full disk, signals, streams nobody reads, odd folders."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from cli.embedded.folder import DataFolder
from shared.settings import Settings
from tests.e2e.conftest import Server
from tests.servers import Qanvas, lives, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
Up = Callable[..., Server]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _kill(processes: list[psutil.Process]) -> None:
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.kill()


class Started:
    """`qanvas up` with streams, limits or a shell line of the test's own, and all that it starts."""

    def __init__(self, line: str, settings: Settings, *, files: int | None = None, **env: str | None) -> None:
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("QANVAS_")}
        given = {**inherited, **settings.as_env(), **env, "PYTHON": sys.executable}
        self.process = subprocess.Popen(
            ["sh", "-c", line],
            cwd=ROOT,
            env={name: text for name, text in given.items() if text is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            preexec_fn=None if files is None else lambda: _limit(files),  # noqa: PLW1509
        )
        self.settings = settings

    def family(self) -> list[psutil.Process]:
        """Every process with the data folder in its environment or command line."""
        found = []
        for one in psutil.process_iter():
            try:
                words = [*one.cmdline(), *one.environ().values()]
                if any(str(self.settings.data) in word for word in words):
                    found.append(one)
            except psutil.Error:
                continue
        return [one for one in found if one.pid != os.getpid() and lives(one)]

    def supervisor(self) -> psutil.Process:
        [found] = [one for one in self.family() if "cli.main" in _words(one) and "up" in _words(one)]
        return found

    def clean(self) -> None:
        _kill(self.family())
        self.process.kill()
        self.process.communicate()


def _limit(files: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


@pytest.fixture
def start(up_settings: Settings) -> Iterator[Callable[..., Started]]:
    """``start('"$PYTHON" -m cli.main up | head -1')``"""
    started: list[Started] = []

    def begin(line: str, settings: Settings = up_settings, **options: object) -> Started:
        started.append(Started(line, settings, **options))  # type: ignore[arg-type]
        return started[-1]

    yield begin
    for one in started:
        one.clean()


def _ready(settings: Settings, seconds: float = 120) -> str:
    """Where the server on the folder listens, once it does."""
    folder = DataFolder(settings.data)
    wait_until(folder.server_url, seconds, what="the server")
    url = folder.server_url()
    assert url is not None
    return url


def _draws(url: str) -> None:
    """One job from the first to the last."""
    answer = httpx.post(
        f"{url}/v1/jobs",
        json={"model": "fake", "input": {"prompt": "x", "steps": 1}},
        headers={"Prefer": "wait=60"},
        timeout=70,
        trust_env=False,
    )
    assert answer.json()["status"] == "succeeded", answer.text


@pytest.mark.chaos
@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0,
    reason="a disk of its own needs a mount namespace",
)
def test_a_full_disk_and_dead_children_do_not_end_it_and_it_goes_on_when_there_is_room(
    start: Callable[..., Started], up_settings: Settings
) -> None:
    up_settings.data.mkdir()
    mount = f'mount -t tmpfs -o size=48m tmpfs "{up_settings.data}"'
    one = start(f"exec unshare -rm sh -c '{mount} && exec \"$PYTHON\" -m cli.main up'")
    wait_until(lambda: _on_its_disk(one, "run/server.json"), 120, what="the server")
    disk = Path(f"/proc/{one.process.pid}/root{up_settings.data}")
    supervisor = psutil.Process(one.process.pid)
    filler = disk / "filler"
    _fill(filler)
    _kill(supervisor.children())  # the guard, too
    time.sleep(3)  # several rounds, in which they are started again or not
    assert one.process.poll() is None
    filler.unlink()
    wait_until(lambda: _answers(one, disk), 120, what="the server, after there is room again")
    supervisor.terminate()
    said = one.process.communicate(timeout=15)[1]
    assert one.process.returncode == 0
    assert "Traceback" not in said, said
    assert not one.family()


def _on_its_disk(one: Started, name: str) -> bool:
    assert one.process.poll() is None
    return Path(f"/proc/{one.process.pid}/root{one.settings.data}/{name}").exists()


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(1 << 16))
            except OSError:
                break
        while True:
            try:
                file.write(b"x")
            except OSError:
                return


def _answers(one: Started, disk: Path) -> bool:
    try:
        url = json.loads((disk / "run/server.json").read_text())["url"]
        answer = httpx.post(
            f"{url}/v1/jobs",
            json={"model": "fake", "input": {"prompt": "x", "steps": 1}},
            headers={"Prefer": "wait=20"},
            timeout=30,
            trust_env=False,
        )
        return bool(answer.is_success and answer.json()["status"] == "succeeded")
    except (httpx.HTTPError, OSError, ValueError):
        return False


@pytest.mark.chaos
def test_data_of_valkey_that_are_broken_in_the_middle_do_not_keep_it_from_starting(up: Up) -> None:
    server = up()
    job = server.submit(prompt="before", steps=400, step_seconds=0.1)["id"]
    wait_until(lambda: server.job(job)["status"] == "running", 60, what="the job to run")
    data = Path(server.process.said().partition("data and logs in ")[2].partition("\n")[0])
    assert server.process.stop() == 0
    [file] = (data / "valkey").rglob("*.incr.aof")
    text = file.read_bytes()
    file.write_bytes(text[: len(text) // 2] + b"*9\r\n$garbage" + text[len(text) // 2 :])
    again = up()
    assert again.process.said().count("set aside") == 1
    assert again.http.post(f"/v1/jobs/{job}/cancel").status_code == 202
    assert again.ended(job)["status"] == "canceled"


def test_nothing_below_the_data_folder_is_open_to_others_and_no_secret_shows(
    qanvas: Callable[..., Qanvas], up_settings: Settings
) -> None:
    up_settings.data.mkdir(mode=0o755)
    password = "hunter2-hunter2"
    settings = up_settings.with_(key=password)
    before = os.umask(0o022)
    try:
        server = Server(qanvas("up", settings=settings))
    finally:
        os.umask(before)
    answer = server.http.post(
        "/v1/jobs",
        json={
            "model": "fake",
            "input": {"prompt": "x", "steps": 3, "preview_every": 1},
            "webhook": {"url": "https://example.com/", "secret": "whsec_MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0"},
        },
    )
    assert answer.status_code == 202, answer.text
    server.ended(answer.json()["id"])
    open_ = {
        str(path.relative_to(settings.data)): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in [settings.data, *settings.data.rglob("*")]
        if path.lstat().st_mode & 0o077
    }
    assert not open_
    assert {path.name for path in settings.data.iterdir()} >= {
        "qanvas.db",
        "storage",
        "valkey",
        "logs",
        "run",
    }
    shown = server.http.get("/v1/workers").text + server.process.said()
    for path in (settings.data / "logs").iterdir():
        shown += path.read_text()
    for one in server.process.family():
        if one.pid != server.process.pid:
            shown += " ".join([*one.cmdline(), *one.environ().values()])
    assert password not in shown
    assert "whsec_" not in shown


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_program_of_its_own_closes_the_data_folder_too(
    qanvas: Callable[..., Qanvas], up_settings: Settings, redis_url: str, command: str
) -> None:
    assert qanvas("migrate", settings=up_settings).wait() == 0
    up_settings.data.chmod(0o755)
    os.umask(before := os.umask(0o022))
    assert before != 0o077, "what is tested would come by itself"
    process = qanvas(command, settings=up_settings.with_(redis_url=redis_url))
    wait_until((up_settings.data / "storage").exists, 120, what="the storage")
    assert not [path for path in up_settings.data.rglob("*") if path.lstat().st_mode & 0o077]
    assert up_settings.data.stat().st_mode & 0o077 == 0
    process.stop()
    assert "was open to other users" in process.said()


def test_valkey_and_the_guard_are_given_no_secrets_of_the_environment(
    start: Callable[..., Started], up_settings: Settings
) -> None:
    one = start('exec "$PYTHON" -m cli.main up', AWS_SECRET_ACCESS_KEY="abracadabra")
    _ready(up_settings)
    family = one.supervisor().children()
    told = {" ".join(each.cmdline()[-2:]) for each in family if "abracadabra" in each.environ().values()}
    assert told == {"cli.main api", "cli.main worker"}
    assert len(family) == 4


@pytest.mark.parametrize(
    "line",
    [
        '"$PYTHON" -m cli.main up 2>&1 | head -1',
        'exec "$PYTHON" -m cli.main up <&- >&- 2>&-',
        'exec "$PYTHON" -m cli.main up > /dev/full 2> /dev/full',
        'exec nohup "$PYTHON" -m cli.main up > /dev/null 2>&1',
    ],
)
def test_whoever_reads_its_streams_may_be_gone(
    start: Callable[..., Started], up_settings: Settings, line: str
) -> None:
    one = start(line)
    _draws(_ready(up_settings))
    supervisor = one.supervisor()
    if "nohup" in line:
        supervisor.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert supervisor.is_running()
    supervisor.terminate()
    wait_until(lambda: not one.family(), 15, what="the end of all")


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGINT, 0.6),
        (signal.SIGTERM, 0.9),
        (signal.SIGHUP, 1.2),
        (signal.SIGTERM, 1.5),
        (signal.SIGINT, 2.0),
        (signal.SIGTERM, 3.0),
    ],
)
def test_a_signal_at_any_moment_of_the_start_ends_all_of_it(
    start: Callable[..., Started], number: signal.Signals, after: float
) -> None:
    one = start('exec "$PYTHON" -m cli.main up')
    time.sleep(after)
    one.process.send_signal(number)
    began = time.monotonic()
    one.process.wait(20)
    assert time.monotonic() - began < 10
    wait_until(lambda: not one.family(), 5, what=f"the end of {one.family()}")


@pytest.mark.parametrize("name", ["ünï code → per%41cent #1", "x" * 120, "link"])
def test_a_data_folder_may_be_called_anything(
    start: Callable[..., Started], up_settings: Settings, tmp_path: Path, name: str
) -> None:
    data = tmp_path / name
    if name == "link":
        (tmp_path / "target").mkdir()
        data.symlink_to(tmp_path / "target")
    settings = up_settings.with_(data=data.resolve(), database_url="", storage_url="").resolved()
    one = start('exec "$PYTHON" -m cli.main up', settings)
    _draws(_ready(settings))
    [server] = [each for each in one.supervisor().children() if "valkey-server" in each.cmdline()[0]]
    assert not [each for each in server.net_connections() if each.status == psutil.CONN_LISTEN and each.laddr]
    one.supervisor().terminate()
    wait_until(lambda: not one.family(), 15, what="the end of all")


def test_a_data_folder_that_no_url_can_name_is_refused(qanvas: Callable[..., Qanvas], tmp_path: Path) -> None:
    settings = Settings.from_env({"QANVAS_DATA": str(tmp_path)})
    refused = qanvas("up", settings=settings.with_(data=tmp_path / "what?"))
    assert refused.wait() == 1
    assert "without question marks" in refused.said() and "Traceback" not in refused.said()


def test_without_a_home_and_with_few_open_files_it_runs(
    start: Callable[..., Started], up_settings: Settings
) -> None:
    one = start('exec "$PYTHON" -m cli.main up', files=256, HOME=None, USER=None, LOGNAME=None)
    _draws(_ready(up_settings))
    one.supervisor().terminate()
    wait_until(lambda: not one.family(), 15, what="the end of all")


@pytest.mark.chaos
def test_a_data_folder_that_is_removed_ends_no_supervisor(
    start: Callable[..., Started], up_settings: Settings
) -> None:
    one = start('exec "$PYTHON" -m cli.main up')
    _ready(up_settings)
    supervisor = one.supervisor()
    shutil.rmtree(up_settings.data, ignore_errors=True)
    _kill(supervisor.children())
    time.sleep(3)
    assert supervisor.is_running()
    supervisor.terminate()
    wait_until(lambda: not one.family(), 15, what="the end of all")
    assert one.process.wait(5) == 0


def test_a_database_that_cannot_be_used_is_one_line_of_every_command(
    qanvas: Callable[..., Qanvas], up_settings: Settings
) -> None:
    up_settings.data.mkdir()
    path = up_settings.data / "qanvas.db"
    path.write_text("no database " * 1000)
    commands = (("up",), ("api",), ("worker",), ("migrate",), ("keys", "list"), ("tenants", "list"))
    for command in (*commands, ("worker", "--check")):
        refused = qanvas(*command, settings=up_settings)
        assert refused.wait() == 1, command
        said = refused.said()
        assert f"qanvas: {path} is no SQLite database" in said, command
        assert "Traceback" not in said, command
    assert path.read_text() == "no database " * 1000


@pytest.mark.chaos
def test_a_port_that_another_program_took_meanwhile_is_waited_for(up: Up) -> None:
    server = up()
    port = httpx.URL(server.url).port
    assert port is not None
    [api] = [
        one for one in server.process.family() if one.ppid() == server.process.pid and "api" in _words(one)
    ]
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        for one in (*api.children(recursive=True), api):
            one.kill()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            wait_until(partial(_bound, other, port), 20, what="the port")
            other.listen()
            os.kill(server.process.pid, signal.SIGCONT)
            wait_until(lambda: server.process.said().count("api ended") >= 2, 60, what="a start in vain")
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    assert server.ended(_submitted(server))["status"] == "succeeded"


def _bound(other: socket.socket, port: int) -> bool:
    try:
        other.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _submitted(server: Server) -> str:
    found: list[str] = []

    def submit() -> bool:
        try:
            found.append(server.submit(prompt="x", steps=1)["id"])
        except httpx.TransportError:
            return False
        return True

    wait_until(submit, 60, what="the API")
    return found[0]
