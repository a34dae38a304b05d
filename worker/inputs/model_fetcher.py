"""The files of models, brought here once for all the jobs that wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path

from shared.catalog.entries.model import Model
from shared.catalog.hub import OnProgress
from shared.errors import ModelUnavailable
from worker.engines.contract.engine import Progress
from worker.health.watchdog import Busy
from worker.inputs.reading import Wait

Report = Callable[[Progress], None]


class _Fetch:
    def __init__(self, report: Report) -> None:
        self.folder: Future[Path | None] = Future()
        #: those who wait hear how far it is
        self.reports = [report]

    def fail(self, error: Exception) -> None:
        """Tell those who wait, unless they know how it ended. Any thread."""
        with suppress(InvalidStateError):
            self.folder.set_exception(error)


class ModelFetcher:
    """Each fetch has a thread of its own: a job that is canceled meanwhile ends, others get the files."""

    def __init__(self, fetch: Callable[[Model, OnProgress], Path | None], busy: Busy | None = None) -> None:
        """The watchdog sees in ``busy`` whether a fetch makes progress. Those who wait for one that does not
        get an error; the fetch stays, and should it go on after all, later jobs get what it brings."""
        self._fetch = fetch
        self._busy = busy or Busy()
        self._lock = threading.Lock()
        self._known: dict[str, Path | None] = {}
        self._running: dict[str, _Fetch] = {}

    def folder(self, key: str, model: Model, report: Report, wait: Wait) -> Path | None:
        """The model's files, None for a model without any. Raises what ``fetch`` and ``wait`` raise."""
        with self._lock:
            known = self._known.get(key)
            if key in self._known and (known is None or known.is_dir()):
                return known
            if (fetch := self._running.get(key)) is not None:
                fetch.reports.append(report)
            else:
                fetch = self._running[key] = _Fetch(report)
                threading.Thread(
                    target=self._run, args=(key, model, fetch), name=f"fetch {model.id}", daemon=True
                ).start()
        try:
            return wait(fetch.folder)
        finally:
            fetch.reports.remove(report)

    def _run(self, key: str, model: Model, fetch: _Fetch) -> None:
        def give_up() -> None:
            fetch.fail(
                ModelUnavailable(
                    f"the files of model {model.id} do not come any more; the worker's log says since when, "
                    "see to its network and its disks"
                )
            )

        def downloaded(done: int, total: int | None) -> None:
            mark.beat()
            for report in tuple(fetch.reports):
                report(Progress("download", done, total))

        try:
            with self._busy.at(f"fetching {model.id}", abandon=give_up) as mark:
                folder = self._fetch(model, downloaded)
        except Exception as error:  # noqa: BLE001 - those who wait get it
            with self._lock:
                del self._running[key]
            fetch.fail(error)
        else:
            with self._lock:
                del self._running[key]
                self._known[key] = folder
            with suppress(InvalidStateError):  # it was given up
                fetch.folder.set_result(folder)
