"""Children that are kept running, whatever goes wrong beside them: real processes, real faults."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from cli.embedded import children, guard
from cli.embedded.folder import DataFolder
from cli.embedded.identity import identity
from cli.embedded.keeper import Child, Keeper, why
from cli.embedded.restarts import Complaints, Restarts
from cli.signals import Stopped, stopping, undisturbed
from tests.servers import lives, wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long between two starts."""
    monkeypatch.setattr("cli.embedded.restarts._LONGEST_WAIT", 0.2)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    kept = Keeper(DataFolder(tmp_path), {})
    yield kept
    kept.stop([(kept.children, 0.0)])


def _sleeper(folder: Path, name: str = "sleeper") -> Child:
    return Child(name, ["sleep", "60"], {"PATH": os.defpath}, folder / "logs" / f"{name}.log")


def _kept(keeper: Keeper, condition: Callable[[], object], what: str) -> None:
    def tended() -> object:
        keeper.tend()
        return condition()

    wait_until(tended, 20, what=what)


def _kill(child: Child) -> int:
    """Kill a child, and return the id that it had."""
    assert child.process is not None
    child.process.kill()
    child.process.wait()
    return child.process.pid


def _lives_again(child: Child, before: int) -> bool:
    return child.process is not None and child.process.pid != before and child.process.poll() is None


def _guards() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if guard.__file__ in one.cmdline()]


def test_a_full_disk_stops_neither_the_keeper_nor_its_children_and_is_said_once(
    keeper: Keeper, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sleeper = _sleeper(tmp_path)
    keeper.add(sleeper)
    record = tmp_path / "run" / "processes.json"
    new = record.with_suffix(".new")
    new.symlink_to("/dev/full")  # every write there finds no space
    for _ in range(3):
        before = _kill(sleeper)
        _kept(keeper, partial(_lives_again, sleeper, before), "the sleeper to be started again")
    for _ in range(5):
        keeper.tend()
    said = [one.getMessage() for one in caplog.records if "No space left" in one.getMessage()]
    assert len(said) == 1 and "which processes run" in said[0]
    assert sleeper.process is not None
    assert f'"pid": {sleeper.process.pid}' not in record.read_text()
    new.unlink()
    keeper.tend()
    assert f'"pid": {sleeper.process.pid}' in record.read_text()
    assert any("can write to the data folder" in one.getMessage() for one in caplog.records)


def test_a_log_that_cannot_be_opened_is_no_reason_not_to_start(
    keeper: Keeper, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sleeper = _sleeper(tmp_path)
    sleeper.log.mkdir(parents=True)  # not even root can write to it
    keeper.add(sleeper)
    assert sleeper.process is not None and sleeper.process.poll() is None
    assert [one.getMessage() for one in caplog.records if f"cannot write {sleeper.log}" in one.getMessage()]


def test_a_data_folder_that_is_removed_meanwhile_is_made_again(keeper: Keeper, tmp_path: Path) -> None:
    sleeper = _sleeper(tmp_path / "logs")
    keeper.add(sleeper)
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    before = _kill(sleeper)
    _kept(keeper, lambda: _lives_again(sleeper, before), "the sleeper to be started again")
    assert (tmp_path / "run" / "processes.json").exists()


def test_without_a_free_file_a_start_is_tried_until_it_succeeds(tmp_path: Path) -> None:
    """In a process of its own: what is used up there does not fail this one."""
    program = f"""
import os, pathlib, resource, sys, time
from cli.embedded.folder import DataFolder
from cli.embedded.keeper import Child, Keeper
from cli.embedded import restarts
restarts._LONGEST_WAIT = 0.1
folder = pathlib.Path({str(tmp_path)!r})
keeper = Keeper(DataFolder(folder), {{}})
child = Child("sleeper", ["sleep", "60"], {{"PATH": os.defpath}}, folder / "sleeper.log")
keeper.add(child)
child.process.kill(); child.process.wait()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
for _ in range(20):
    keeper.tend(); time.sleep(0.05)
failed = child.process is None
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
until = time.monotonic() + 20
while child.process is None and time.monotonic() < until:
    keeper.tend(); time.sleep(0.05)
print(failed, child.process is not None and child.process.poll() is None, flush=True)
keeper.stop([(keeper.children, 0.0)])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "True True\n", done.stderr
    assert done.stderr.count("cannot start sleeper, trying again: OSError: [Errno 24]") == 1
    assert "can start sleeper again" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_memory_for_a_process_a_start_is_tried_until_it_succeeds(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")  # a machine cannot be left without, for a test

    sleeper = _sleeper(tmp_path)
    keeper.add(sleeper)
    _kill(sleeper)
    with monkeypatch.context() as patch:
        patch.setattr("cli.embedded.children.subprocess.Popen", fork)
        for _ in range(3):
            keeper.tend()
            assert sleeper.process is None
    _kept(keeper, lambda: sleeper.process, "the sleeper to be started again")


def test_a_start_that_fails_for_another_reason_is_survived_and_shown_with_its_place(
    keeper: Keeper, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(Child):
        def look(self) -> None:
            raise ZeroDivisionError("not foreseen")

    odd = Odd("odd", ["sleep", "60"], {"PATH": os.defpath}, tmp_path / "odd.log")
    keeper.add(odd)
    for _ in range(5):
        keeper.tend()
    [said] = [one for one in caplog.records if "not foreseen" in one.getMessage()]
    assert said.exc_info


@pytest.mark.parametrize("status", [0, 1, 75])
def test_a_child_that_ends_with_any_status_is_started_again(
    keeper: Keeper, tmp_path: Path, status: int
) -> None:
    count = tmp_path / "count"
    program = f"echo x >> {count}; exit {status}"
    keeper.add(Child("short", ["sh", "-c", program], {"PATH": os.defpath}, tmp_path / "short.log"))
    _kept(keeper, lambda: count.exists() and len(count.read_text().split()) >= 4, "the fourth start")


def test_the_wait_between_two_starts_grows_to_a_bound_however_often_it_died(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cli.embedded.restarts._LONGEST_WAIT", 10.0)
    restarts = Restarts()
    waits = []
    for _ in range(5000):
        restarts.begin(1000.0)
        waits.append(restarts.died(1001.0))
    assert waits[:5] == [0.0, 2.0, 4.0, 8.0, 10.0]
    assert set(waits[4:]) == {10.0}
    restarts.begin(2000.0)
    assert restarts.died(2031.0) == 0.0


def test_every_way_to_end_has_words() -> None:
    assert why(3) == "exit status 3"
    assert why(-signal.SIGKILL) == "signal SIGKILL"
    assert why(-(signal.SIGRTMIN + 1)) == f"signal {signal.SIGRTMIN + 1}"


def test_an_error_is_said_again_when_it_changes_and_its_end_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    complaints = Complaints()
    for error in (OSError(1, "a"), OSError(1, "a"), OSError(1, "b")):
        with complaints.survive("do it"):
            raise error
    for _ in range(2):
        with complaints.survive("do it"):
            pass
    assert [one.getMessage() for one in caplog.records] == [
        "cannot do it, trying again: PermissionError: [Errno 1] a",
        "cannot do it, trying again: PermissionError: [Errno 1] b",
        "can do it again",
    ]


def test_a_guard_that_is_killed_is_replaced_by_one_that_knows_the_children(tmp_path: Path) -> None:
    """Killed several times, once while children are being started; then the keeper's own process."""
    program = f"""
import os, pathlib, time
from cli.embedded.folder import DataFolder
from cli.embedded.keeper import Child, Keeper
from cli.embedded import children, restarts
restarts._LONGEST_WAIT = 0.1
children.die_with_parent = lambda: None  # as on a system whose kernel does not end them
folder = pathlib.Path({str(tmp_path)!r})
keeper = Keeper(DataFolder(folder), {{}})
for number in range(3):
    keeper.add(Child(f"{{number}}", ["sleep", "60"], {{"PATH": os.defpath}}, folder / "log"))
print("on", flush=True)
while True:
    keeper.tend(); time.sleep(0.02)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        parent.stdout.readline()
        family = psutil.Process(parent.pid)

        def guards() -> list[psutil.Process]:
            return [one for one in family.children() if _runs(one, guard.__file__)]

        for turn in range(4):
            wait_until(lambda: len(guards()) == 1, 20, what="a guard")
            [old] = guards()
            sleepers = [one for one in family.children() if _runs(one, "sleep")]
            if turn % 2:
                sleepers[0].kill()  # its successor starts while there is no guard
            old.kill()
            wait_until(lambda: guards() and old not in guards(), 20, what="another guard")  # noqa: B023
        wait_until(lambda: len(_sleepers(family)) == 3, 20, what="all three sleepers")
        time.sleep(0.2)  # a few rounds, in which the guard hears of the last one
        sleepers = _sleepers(family)
        parent.kill()
        parent.wait()
        wait_until(lambda: not any(map(lives, sleepers)), 10, what="the end of all that was guarded")
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(parent.pid).children(recursive=True):
                one.kill()
        parent.kill()
        parent.wait()


def _sleepers(family: psutil.Process) -> list[psutil.Process]:
    return [one for one in family.children() if _runs(one, "sleep")]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_keeper_and_guard_killed_together_leave_nothing(tmp_path: Path) -> None:
    program = f"""
import os, pathlib, time
from cli.embedded.folder import DataFolder
from cli.embedded.keeper import Child, Keeper
folder = pathlib.Path({str(tmp_path)!r})
keeper = Keeper(DataFolder(folder), {{}})
keeper.add(Child("sleeper", ["sleep", "60"], {{"PATH": os.defpath}}, folder / "log"))
print("on", flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    family = psutil.Process(parent.pid).children()
    assert len(family) == 2
    for one in family:
        if _runs(one, guard.__file__):
            one.kill()
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(map(lives, family)), 10, what="the end of the sleeper")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_guard_that_is_dead_or_hangs_holds_up_no_good_end_and_kills_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    keeper = Keeper(DataFolder(tmp_path), {})
    keeper.add(_sleeper(tmp_path))
    [one] = _guards()
    one.send_signal(number)
    began = time.monotonic()
    keeper.stop([(keeper.children, 5.0)])
    assert time.monotonic() - began < 5
    assert not _guards()


def _runs(process: psutil.Process, word: str) -> bool:
    try:
        return word in process.cmdline()
    except psutil.Error:
        return False


def test_a_signal_between_the_start_of_a_process_and_the_note_of_it_waits() -> None:
    noted = []

    def start() -> None:
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            noted.append("its id")
        noted.append("what comes after")

    with stopping() as request, pytest.raises(Stopped):
        start()
    assert noted == ["its id"] and request.asked


def test_a_signal_is_not_forgotten_where_the_start_fails() -> None:
    def start() -> None:
        with contextlib.suppress(OSError), undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            raise OSError(errno.EMFILE, "no free file")

    with stopping(), pytest.raises(Stopped):
        start()


def test_only_the_first_signal_raises_and_outside_of_a_block_nothing_waits() -> None:
    with undisturbed():
        pass
    with stopping():
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)  # cleaning up goes on


def test_an_identity_is_a_processs_own_and_ends_with_it() -> None:
    one, other = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    mine = identity(one.pid)
    assert mine is not None and mine == identity(one.pid)
    children.stop([one, other], grace=0)
    assert identity(one.pid) is None
