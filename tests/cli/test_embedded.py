"""The supervisor's parts: what ends with it, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from cli.embedded import children, guard
from cli.embedded.folder import DataFolder
from cli.embedded.identity import identity
from shared.errors import ConfigurationError
from tests.servers import lives, wait_until

ROOT = Path(__file__).parents[2]


def _sleeper() -> subprocess.Popen[bytes]:
    """A process that leads a group and has a child of its own."""
    program = (
        "import subprocess, time; subprocess.Popen(['sleep', '60']); print('on', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, process_group=0)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _guard() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-I", "-S", guard.__file__], stdin=subprocess.PIPE)


def test_the_guard_kills_every_group_with_all_that_is_in_it_when_the_supervisor_is_gone() -> None:
    sleeper, watcher = _sleeper(), _guard()
    [grandchild] = psutil.Process(sleeper.pid).children()
    watcher.communicate(f"+{sleeper.pid}\n".encode())
    assert sleeper.wait(5) == -signal.SIGKILL
    wait_until(lambda: not lives(grandchild), 5, what="the grandchild's end")


@pytest.mark.parametrize("words", ["+{pid}\ndone\n", "+{pid}\n-{pid}\n"])
def test_the_guard_spares_groups_after_a_good_end_and_those_that_ended_before(words: str) -> None:
    sleeper, watcher = _sleeper(), _guard()
    try:
        watcher.communicate(words.format(pid=sleeper.pid).encode())
        assert watcher.returncode == 0
        assert sleeper.poll() is None
    finally:
        os.killpg(sleeper.pid, signal.SIGKILL)
        sleeper.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_child_dies_with_its_parent_even_without_a_guard(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import pathlib, time
        from cli.embedded import children
        print(children.start(["sleep", "60"], log=pathlib.Path({str(tmp_path / "log")!r})).pid, flush=True)
        time.sleep(60)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    wait_until(lambda: not lives(child), 5, what="the child's end")


def test_one_folder_has_one_supervisor(tmp_path: Path) -> None:
    first, second = DataFolder(tmp_path), DataFolder(tmp_path)
    first.acquire()
    first.announce("http://127.0.0.1:8123")
    with pytest.raises(ConfigurationError, match=r"runs on .* at http://127.0.0.1:8123; .*--data"):
        second.acquire()
    assert second.server_url() == "http://127.0.0.1:8123"
    first.release()
    second.acquire()
    assert second.server_url() is None
    second.release()


def test_what_a_killed_supervisor_left_is_ended_before_the_next_one_starts(tmp_path: Path) -> None:
    folder, sleeper = DataFolder(tmp_path), _sleeper()
    folder.run.mkdir()
    folder.record([sleeper.pid])
    family = [psutil.Process(sleeper.pid), *psutil.Process(sleeper.pid).children()]
    folder.acquire()
    assert len(family) == 2
    assert not any(map(lives, family))
    folder.release()


def test_a_process_that_was_given_the_id_of_an_earlier_one_is_left_alone(tmp_path: Path) -> None:
    folder, sleeper, earlier = DataFolder(tmp_path), _sleeper(), _sleeper()
    rows = [{"pid": sleeper.pid, "identity": identity(earlier.pid), "url": "http://127.0.0.1:1"}]
    children.stop([earlier], grace=0)
    folder.run.mkdir()
    (folder.run / "processes.json").write_text(json.dumps(rows))
    (folder.run / "server.json").write_text(json.dumps(rows[0]))
    assert folder.server_url() is None
    folder.acquire()
    folder.release()
    assert sleeper.poll() is None
    os.killpg(sleeper.pid, signal.SIGKILL)
    sleeper.wait()


def test_a_record_half_written_by_a_power_cut_does_not_stand_in_the_way(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.run.mkdir()
    (folder.run / "processes.json").write_text('[{"pid": 1')
    (folder.run / "server.json").write_text("")
    assert folder.server_url() is None
    folder.acquire()
    folder.release()


@pytest.mark.parametrize(
    "text", ["5", "null", '{"pid": 1}', "[1, [], null]", '[{"pid": "x", "identity": "y"}]', '[{"pid": -1}]']
)
def test_a_record_of_something_else_does_not_stand_in_the_way(tmp_path: Path, text: str) -> None:
    folder = DataFolder(tmp_path)
    folder.run.mkdir()
    (folder.run / "processes.json").write_text(text)
    (folder.run / "server.json").write_text(text)
    assert folder.server_url() is None
    folder.acquire()
    folder.release()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))  # no such file system can be mounted here

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(ConfigurationError, match=r"has no locks, .* local disk with --data"):
        DataFolder(tmp_path).acquire()


def test_a_folder_that_goes_while_it_is_owned_does_not_stand_in_the_way_of_the_end(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.acquire()
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").write_text("")
    folder.release()


def test_a_long_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.embedded.folder._LONGEST_LOG", 10)
    folder = DataFolder(tmp_path)
    folder.log("api").parent.mkdir()
    folder.log("api").write_text("x" * 11)
    assert not folder.log("api").exists()
    assert (tmp_path / "logs/api.log.1").exists()


def test_a_folder_that_cannot_be_written_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")  # where not even root can make a folder
    with pytest.raises(ConfigurationError, match=r"cannot write to the data folder .*/file/data: .*--data"):
        DataFolder(tmp_path / "file" / "data").acquire()
