"""A background loop: something that is done every few seconds, on a thread of its own."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod

from shared.errors import Unavailable

log = logging.getLogger(__name__)


class PeriodicService(ABC):
    """Calls ``run_once`` every few seconds from ``start`` until ``stop``; an error ends no loop.

    A run is not one step for a worker's watchdog, because a sweep of a large storage may take longer than a
    hang and still make progress. The watchdog sees each of its database and storage calls.
    """

    def __init__(
        self,
        name: str,
        interval: float,
        *,
        delay_first: bool = False,
        max_error_interval: float = 0.0,
        stop_timeout: float | None = None,
    ) -> None:
        """``interval``: seconds between two runs; errors in a row double it, up to ``max_error_interval``.

        ``delay_first`` waits that long before the first run. ``stop_timeout``: seconds that ``stop`` waits
        for a run; None is until it ends."""
        self.name = name
        self._interval = interval
        self._delay_first = delay_first
        self._max_error_interval = max(interval, max_error_interval)
        self._stop_timeout = stop_timeout
        self._errors = 0
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run_until_stopped, name=name, daemon=True)

    @abstractmethod
    def run_once(self) -> bool:
        """Do it once; True asks for the next run at once. Raises Unavailable."""

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was asked for: a long run may end early."""
        return self._stopping

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Run once more without waiting for the interval. Any thread."""
        self._wake.set()

    def ask_to_stop(self) -> None:
        """Begin no more runs; does not wait for the one that goes on. Any thread."""
        self._stopping = True
        self._wake.set()

    def stop(self) -> None:
        """Begin no more runs, and wait for the one that goes on."""
        self.ask_to_stop()
        if self._thread.is_alive():
            self._thread.join(self._stop_timeout)

    def _run_until_stopped(self) -> None:
        wait = self._interval if self._delay_first else 0.0
        while not self._stopping:
            self._wake.wait(wait)
            self._wake.clear()
            if not self._stopping:
                wait = self._run()

    def _run(self) -> float:
        """Seconds until the next run."""
        try:
            again = self.run_once()
        except Unavailable as error:
            log.warning("%s is postponed: %s", self.name, error)
        except Exception:
            log.exception("%s failed", self.name)
        else:
            self._errors = 0
            return 0.0 if again else self._interval
        self._errors += 1
        return float(min(self._interval * 2.0 ** min(self._errors - 1, 30), self._max_error_interval))
