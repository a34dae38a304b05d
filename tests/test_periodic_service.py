"""Background loops: when they run, and that an error ends none."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from shared.errors import Unavailable
from shared.periodic_service import PeriodicService
from tests.servers import wait_until


class Counting(PeriodicService):
    """Notes when it runs, and then does what it was given."""

    def __init__(
        self, interval: float, act: Callable[[int], bool] = lambda _: False, **options: float
    ) -> None:
        super().__init__("counting", interval, **options)  # type: ignore[arg-type]
        self.runs: list[float] = []
        self._act = act

    def run_once(self) -> bool:
        self.runs.append(time.monotonic())
        return self._act(len(self.runs))


@pytest.fixture
def started() -> Iterator[Callable[[Counting], Counting]]:
    services: list[Counting] = []

    def start(service: Counting) -> Counting:
        services.append(service)
        service.start()
        return service

    yield start
    for service in services:
        service.stop()


Start = Callable[[Counting], Counting]


def test_it_runs_at_once_and_then_after_each_interval(started: Start) -> None:
    service = started(Counting(0.1))
    wait_until(lambda: len(service.runs) >= 3)
    assert all(later - earlier >= 0.1 for earlier, later in zip(service.runs, service.runs[1:], strict=False))


def test_the_first_run_may_wait_and_wake_does_not(started: Start) -> None:
    service = started(Counting(3600.0, delay_first=True))
    time.sleep(0.2)
    assert service.runs == []
    service.wake()
    wait_until(lambda: len(service.runs) == 1)


def test_a_run_that_asks_for_the_next_one_gets_it_at_once(started: Start) -> None:
    service = started(Counting(3600.0, lambda count: count < 5))
    wait_until(lambda: len(service.runs) == 5)
    time.sleep(0.1)
    assert len(service.runs) == 5


@pytest.mark.parametrize("error", [Unavailable("the database does not answer"), ValueError("a mistake")])
def test_errors_end_no_loop_and_are_logged(
    started: Start, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(count: int) -> bool:
        if count < 3:
            raise error
        return False

    with caplog.at_level(logging.WARNING):
        service = started(Counting(0.01, fail))
        wait_until(lambda: len(service.runs) > 3)
    assert len([record for record in caplog.records if record.message.startswith("counting")]) == 2


def test_errors_in_a_row_double_the_interval_up_to_a_limit(started: Start) -> None:
    def fail(_: int) -> bool:
        raise Unavailable("the database does not answer")

    service = started(Counting(0.05, fail, max_error_interval=0.2))
    wait_until(lambda: len(service.runs) >= 6)
    waits = [later - earlier for earlier, later in zip(service.runs, service.runs[1:], strict=False)]
    for wait, least in zip(waits, (0.05, 0.1, 0.2, 0.2, 0.2), strict=False):
        assert wait >= least


def test_stop_waits_for_the_run_that_goes_on_but_no_longer_than_asked(started: Start) -> None:
    end = threading.Event()
    service = started(Counting(3600.0, lambda _: end.wait(60), stop_timeout=0.1))
    wait_until(lambda: bool(service.runs))
    begun = time.monotonic()
    service.stop()
    assert service.stopping and 0.1 <= time.monotonic() - begun < 30
    end.set()
