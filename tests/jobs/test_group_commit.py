"""Group commit without a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.db.group_commit import GroupCommit
from tests.servers import wait_until


def test_what_waits_together_is_executed_together_and_each_gets_its_own_answer() -> None:
    batches: list[int] = []
    started, gate = threading.Event(), threading.Event()

    def double(items: Sequence[int]) -> list[int | Exception]:
        batches.append(len(items))
        started.set()
        assert gate.wait(30)
        return [item * 2 for item in items]

    group = GroupCommit(double, limit=8)
    with ThreadPoolExecutor(32) as pool:
        first = pool.submit(group.call, 100)
        assert started.wait(30)
        rest = [pool.submit(group.call, n) for n in range(16)]
        wait_until(lambda: len(group._waiting) == 16, what="all the others to wait")
        gate.set()
        assert first.result(30) == 200
        assert [future.result(30) for future in rest] == [n * 2 for n in range(16)]
    assert sum(batches) == 17
    assert max(batches) == 8


def test_one_bad_item_fails_alone() -> None:
    gate = threading.Event()

    def invert(items: Sequence[int]) -> list[float | Exception]:
        gate.wait(5)
        return [1 / item for item in items]

    group = GroupCommit(invert)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(group.call, n) for n in (1, 0, 2)]
        time.sleep(0.05)
        gate.set()
        assert futures[0].result(5) == 1
        assert futures[2].result(5) == 0.5
        with pytest.raises(ZeroDivisionError):
            futures[1].result(5)


def test_an_answer_that_is_an_exception_is_raised_in_its_caller_alone() -> None:
    group: GroupCommit[int, int] = GroupCommit(
        lambda items: [KeyError(item) if item < 0 else item for item in items]
    )
    assert group.call(3) == 3
    with pytest.raises(KeyError):
        group.call(-1)


def test_groups_that_take_turns_wait_for_each_other() -> None:
    turns, started, gate = threading.Lock(), threading.Event(), threading.Event()

    def hold(items: Sequence[int]) -> list[int | Exception]:
        started.set()
        assert gate.wait(30)
        return list(items)

    def count(items: Sequence[int]) -> list[int | Exception]:
        return [len(items)] * len(items)

    first, second = GroupCommit(hold, turns=turns), GroupCommit(count, turns=turns)
    with ThreadPoolExecutor(8) as pool:
        held = pool.submit(first.call, 7)
        assert started.wait(30)
        waiting = [pool.submit(second.call, n) for n in range(3)]
        wait_until(lambda: len(second._waiting) == 3, what="all to wait")
        time.sleep(0.2)
        assert not any(future.done() for future in waiting)
        gate.set()
        assert held.result(30) == 7
        assert [future.result(30) for future in waiting] == [3, 3, 3]  # what came meanwhile goes together
