"""When a thread counts as hung: looked at with a clock of the test's own, at threads that are real."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from worker.health.watchdog import Busy, Step, Watchdog

#: seconds without progress that are a hang
LIMIT = 1.0

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a thread does")


@contextmanager
def thread_that(acts: Callable[[threading.Event], None]) -> Iterator[int]:
    """The native id of a thread that acts until the event is set."""
    over = threading.Event()
    thread = threading.Thread(target=acts, args=(over,), daemon=True)
    thread.start()
    assert thread.native_id is not None
    yield thread.native_id
    over.set()
    thread.join()


def sleeps(over: threading.Event) -> None:
    over.wait()


def polls(over: threading.Event) -> None:
    while not over.wait(0.05):
        pass


def computes(over: threading.Event) -> None:
    while not over.is_set():
        sum(range(1000))


def dog(*steps: Step) -> Watchdog:
    return Watchdog(LIMIT, lambda: steps, lambda _: None)


def looks(watchdog: Watchdog, seconds: float, *, real: bool = True) -> list[Step]:
    """What is found to hang within so many seconds, which pass at once where they need not be ``real``."""
    found = []
    for _ in range(round(10 * seconds)):
        time.sleep(0.1 * real)
        found += watchdog.look(0.1)
    return found


@linux
def test_a_thread_that_only_sleeps_at_one_step_hangs() -> None:
    with thread_that(sleeps) as thread:
        step = Step("asleep", time.monotonic(), (thread,))
        watchdog = dog(step)
        assert looks(watchdog, LIMIT, real=False) == []
        assert looks(watchdog, 10 * LIMIT, real=False) == [step], "once"


@linux
def test_a_thread_that_looks_again_and_again_whether_something_came_hangs_too() -> None:
    with thread_that(polls) as thread:
        watchdog = dog(Step("polling", time.monotonic(), (thread,)))
        assert looks(watchdog, 2 * LIMIT)


@linux
def test_a_thread_that_has_ended_in_the_middle_of_a_step_hangs() -> None:
    with thread_that(lambda over: None) as thread:
        pass
    assert looks(dog(Step("gone", time.monotonic(), (thread,))), 2 * LIMIT, real=False)


def test_coming_to_another_step_is_progress() -> None:
    now = [0.0]
    watchdog = Watchdog(LIMIT, lambda: [Step("storing", now[0])], lambda _: None)
    for _ in range(5):
        assert looks(watchdog, LIMIT, real=False) == []
        now[0] += 1


@linux
@pytest.mark.slow
def test_computing_is_progress_for_a_while_and_not_for_ever() -> None:
    with thread_that(computes) as thread:
        step = Step("computing", time.monotonic(), (thread,))
        watchdog = dog(step)
        assert looks(watchdog, 4 * LIMIT) == []
        assert looks(watchdog, 2 * LIMIT) == [step]


@linux
@pytest.mark.slow
def test_reading_is_progress_for_as_long_as_it_takes(tmp_path: Path) -> None:
    """As a large model's loading from a slow disk does."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(1 << 16))

    def reads(over: threading.Event) -> None:
        while not over.wait(0.005):
            path.read_bytes()

    with thread_that(reads) as thread:
        watchdog = dog(Step("loading", time.monotonic(), (thread,)))
        assert looks(watchdog, 7 * LIMIT) == []


@linux
def test_past_a_deadline_computing_is_no_progress() -> None:
    with thread_that(computes) as thread:
        step = Step("computing", time.monotonic(), (thread,), due=time.monotonic() - 1)
        watchdog = dog(step)
        assert looks(watchdog, LIMIT) == []
        assert looks(watchdog, LIMIT) == [step]


@linux
def test_a_deadline_that_is_to_come_does_not_count_yet() -> None:
    with thread_that(computes) as thread:
        watchdog = dog(Step("computing", time.monotonic(), (thread,), due=time.monotonic() + 3600))
        assert looks(watchdog, 2 * LIMIT) == []


def test_the_time_for_which_a_process_was_stopped_does_not_count() -> None:
    """SIGSTOP, or a laptop that sleeps: no thread could make progress, the watchdog's own included."""
    found: list[Step] = []
    ticks: list[bool] = []
    looked = threading.Event()

    def tick() -> None:
        """The second one takes so long as if the process had been stopped; then two looks more."""
        ticks.append(bool(found))
        if len(ticks) == 2:
            time.sleep(3 * LIMIT)
        if len(ticks) == 4:
            looked.set()

    watchdog = Watchdog(LIMIT, lambda: [Step("asleep", 0.0)], found.extend, tick)
    watchdog.start()
    assert looked.wait(60)
    watchdog.close()
    assert ticks == [False] * 4


def test_a_step_ends_with_its_block_and_rests_while_others_are_waited_for() -> None:
    busy = Busy()
    with busy.at("preparing a job", "job_1") as mark:
        [first] = busy.steps()
        assert (first.what, first.jobs, first.threads) == (
            "preparing a job",
            ("job_1",),
            (threading.get_native_id(),),
        )
        with mark.pause():
            assert busy.steps() == []
        [second] = busy.steps()
        mark.beat()
        [third] = busy.steps()
        assert first.began < second.began < third.began
    assert busy.steps() == []
    mark.beat()
    assert busy.steps() == [], "nobody is at it any more"


def test_a_watchdog_that_meets_an_error_goes_on_watching() -> None:
    found = threading.Event()
    calls = iter(range(1000))

    def steps() -> list[Step]:
        if next(calls) == 0:
            raise RuntimeError("not this time")
        return [Step("asleep", 0.0)]

    watchdog = Watchdog(0.2, steps, lambda _: found.set())
    watchdog.start()
    assert found.wait(30)
    watchdog.close()
