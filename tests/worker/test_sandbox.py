"""Decoding in processes of its own: what a file does to its decoder ends one task, and the next is done."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from shared.errors import OutOfMemory, QanvasError, Unavailable
from tests.servers import lives, wait_until
from worker.media import starter
from worker.media.limits import Limits
from worker.media.sandbox import Decoding, Sandbox
from worker.media.starter import TooSlow
from worker.media.tasks import TASKS
from worker.media.wire import Undecodable

pytestmark = pytest.mark.slow

#: room for Python and Pillow, and little more
TIGHT = Limits(seconds=60.0, memory=384 << 20, file=1 << 20, reused=True)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One whose decoders can misbehave."""
    made = Sandbox(tasks="tests.worker.misbehaving")
    yield made
    made.close()


class Running:
    """A task that never ends, under way; ``pid`` is its decoder's."""

    def __init__(self, sandbox: Sandbox, folder: Path, task: str = "sleep", seconds: float = 60.0) -> None:
        said = folder / "pid"
        self.decoding = sandbox.begin(task, [], [said], TIGHT, seconds=seconds)
        wait_until(lambda: said.exists() and said.read_text(), what="the task to be under way")
        self.pid = int(said.read_text())
        self.starter = psutil.Process(self.pid).ppid()

    @property
    def error(self) -> BaseException | None:
        return self.decoding.future.exception(60)


def do(sandbox: Sandbox, task: str, *targets: Path, **arguments: str) -> bytes:
    return sandbox.begin(task, [], targets, TIGHT, arguments=arguments).future.result(60)


def starter_of_a_task(sandbox: Sandbox) -> int:
    return int(do(sandbox, "fine"))


def gone(*pids: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return not any(lives(psutil.Process(pid)) for pid in pids if psutil.pid_exists(pid))
    return False  # one ended while this asked: ask again


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("segfault", "makes its decoder crash"),
        ("abort", "makes its decoder crash"),
        ("allocate", "needs more than the 384 MiB of memory"),
        ("answer without end", "confuses its decoder"),
    ],
)
def test_a_decoder_that_is_made_to_fail_ends_its_task_and_the_next_one_is_done(
    sandbox: Sandbox, task: str, said: str
) -> None:
    with pytest.raises(Undecodable, match=said):
        do(sandbox, task)
    assert starter_of_a_task(sandbox) > 0


@pytest.mark.parametrize("task", ["sleep", "compute"])
def test_a_decoder_that_hangs_is_ended_at_its_deadline(sandbox: Sandbox, tmp_path: Path, task: str) -> None:
    hanging = Running(sandbox, tmp_path, task, seconds=2.0)
    assert isinstance(hanging.error, TooSlow) and "longer to decode than the 2 s" in str(hanging.error)
    wait_until(lambda: gone(hanging.pid, hanging.starter), what="its processes to end")
    assert starter_of_a_task(sandbox) != hanging.starter


def test_a_decoder_that_computes_too_long_is_ended_by_the_kernel(sandbox: Sandbox, tmp_path: Path) -> None:
    """Whoever started it: here nobody looks at the clock."""
    hanging = Running(sandbox, tmp_path, "compute", seconds=30.0)
    psutil.Process(hanging.pid).rlimit(psutil.RLIMIT_CPU, (1, 2))
    assert isinstance(hanging.error, TooSlow)


def test_a_decoder_may_not_write_more_than_it_was_allowed(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(Undecodable, match="is broken"):
        do(sandbox, "write", tmp_path / "out")
    assert (tmp_path / "out").stat().st_size <= TIGHT.file


@pytest.mark.parametrize("what", ["KeyError", "Recursion"])
def test_an_error_that_nobody_foresaw_is_the_fault_of_what_was_sent(sandbox: Sandbox, what: str) -> None:
    with pytest.raises(Undecodable, match=r"is broken \(\w+\); send a file that other programs can open"):
        do(sandbox, "raise", what=what)


def test_what_a_decoder_says_is_shown_on_one_line(sandbox: Sandbox) -> None:
    with pytest.raises(Undecodable) as caught:
        do(sandbox, "raise", what="Refused")
    assert str(caught.value) == "a b"


def test_each_task_has_a_process_of_its_own_and_those_that_start_them_are_kept(
    sandbox: Sandbox,
) -> None:
    """Nothing that a file does to a decoder is there for the next one's."""
    starters = {starter_of_a_task(sandbox) for _ in range(20)}
    assert len(starters) <= 10, "as many are kept as work at once, whatever a busy machine starts meanwhile"
    with pytest.raises(Undecodable, match="crash"):
        do(sandbox, "segfault")
    assert starter_of_a_task(sandbox) in starters


def test_a_task_that_nobody_wants_any_more_is_ended_at_once(sandbox: Sandbox, tmp_path: Path) -> None:
    running = Running(sandbox, tmp_path)
    running.decoding.stop()
    wait_until(lambda: gone(running.pid, running.starter), what="its processes to end")
    assert running.error is not None


def test_a_task_that_is_stopped_before_it_begins_is_not_begun(sandbox: Sandbox, tmp_path: Path) -> None:
    decoding = Decoding()
    decoding.stop()
    request = starter.wire.Request(task="sleep", seconds=60, arguments={})
    sandbox._run(decoding, request, [], [tmp_path / "pid"], TIGHT, lambda _done, _total: None)
    assert isinstance(decoding.future.exception(60), Undecodable)
    assert not (tmp_path / "pid").exists()


def test_tasks_beside_three_that_hang_are_done(sandbox: Sandbox, tmp_path: Path) -> None:
    hanging = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        hanging.append(Running(sandbox, folder))
    assert starter_of_a_task(sandbox) not in {one.starter for one in hanging}
    for one in hanging:
        one.decoding.stop()


def test_a_starter_that_dies_while_it_is_idle_costs_no_task(sandbox: Sandbox) -> None:
    idle = starter_of_a_task(sandbox)
    os.kill(idle, signal.SIGKILL)
    wait_until(lambda: gone(idle), what="it to be dead")
    assert starter_of_a_task(sandbox) != idle


@pytest.mark.parametrize("who", ["decoder", "starter"])
def test_what_the_system_ends_is_not_the_files_fault(sandbox: Sandbox, tmp_path: Path, who: str) -> None:
    running = Running(sandbox, tmp_path)
    os.kill(running.pid if who == "decoder" else running.starter, signal.SIGKILL)
    assert isinstance(running.error, OutOfMemory) and running.error.retryable
    wait_until(lambda: gone(running.pid), what="the decoder to end")


def test_a_decoder_has_one_line_to_its_worker_and_nothing_else(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QANVAS_REDIS_URL", "redis://:secret@localhost")
    fresh = Limits(seconds=60, memory=1 << 30, file=1 << 20)
    with (tmp_path / "opened by the worker").open("wb") as kept:
        os.set_inheritable(kept.fileno(), True)
        target = tmp_path / "found"
        sandbox.begin("look around", [], [target], fresh).future.result(60)
    found = json.loads(target.read_text())
    assert set(found["environment"]) == set(starter._environment()) and "secret" not in json.dumps(found)
    links = list(found["descriptors"].values())
    assert links.count("/dev/null") == 3
    assert sum(one.startswith("socket:") for one in links) == 1
    assert [one for one in links if one != "/dev/null" and not one.startswith("socket:")] == [str(target)]
    assert found["group"] != os.getpgid(0), "Ctrl-C in the worker's terminal must not reach it"
    assert found["ended for memory"] == 1000, "where memory is short it goes before the worker"


@pytest.mark.chaos
@pytest.mark.parametrize("task", ["sleep", "compute"])
def test_decoders_end_with_a_worker_that_is_killed(tmp_path: Path, task: str) -> None:
    program = (
        "import os, sys, time; from pathlib import Path\n"
        "sys.path[0] = os.getcwd()\n"  # where the tasks lie: the decoder gets this path
        "from worker.media.sandbox import Sandbox\n"
        "from worker.media.limits import PICTURE\n"
        "Sandbox(tasks='tests.worker.misbehaving').begin(sys.argv[1], [], [Path(sys.argv[2])], PICTURE)\n"
        "time.sleep(600)"
    )
    said = tmp_path / "pid"
    command = [sys.executable, "-c", program, task, str(said)]
    worker = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        wait_until(lambda: said.exists() and said.read_text(), 60, what="the task to be under way")
        decoder = int(said.read_text())
        forked_by = psutil.Process(decoder).ppid()
    finally:
        worker.kill()
        worker.wait()
    wait_until(lambda: gone(decoder, forked_by), what="its processes to end")


def test_a_decoder_ends_when_its_line_is_closed_and_its_starter_goes_on(tmp_path: Path) -> None:
    """What ends it where the kernel does not end it with its worker, as on macOS."""
    process = starter.Starter(TIGHT, "tests.worker.misbehaving")
    ours, theirs = socket.socketpair()
    said = tmp_path / "pid"
    try:
        assert process.is_idle()
        with theirs, said.open("wb") as target:
            starter.wire.hand_over(process._control, theirs)
            request = starter.wire.Request(task="sleep", seconds=60, arguments={})
            starter.wire.ask(ours, request, starter.wire.Files([], [target]))
        wait_until(said.read_text, what="the task to be under way")
        ours.close()
        wait_until(lambda: gone(int(said.read_text())), what="the decoder to end")
        assert process.lives
    finally:
        process.kill()


def test_a_process_that_cannot_start_is_not_the_files_fault() -> None:
    broken = Sandbox(tasks="tests.no_such_module")
    try:
        with pytest.raises(Unavailable, match="did not start"):
            do(broken, "fine")
    finally:
        broken.close()


def test_a_closed_sandbox_leaves_no_process_and_starts_none(tmp_path: Path) -> None:
    made = Sandbox(tasks="tests.worker.misbehaving")
    made.open(TIGHT)
    idle = starter_of_a_task(made)
    running = Running(made, tmp_path)
    made.close()
    assert running.error is not None
    wait_until(lambda: gone(idle, running.pid, running.starter), what="its processes to end")
    with pytest.raises(QanvasError, match="leaving"):
        do(made, "fine")


def test_what_can_misbehave_is_not_in_a_workers_table() -> None:
    assert set(TASKS) == {"picture", "pictures", "corpus"}
