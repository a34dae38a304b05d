"""Removes stored files that are past their time, and those that no row names; never one that a job reads."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from shared.chunks import in_chunks
from shared.db.named_locks import NamedLocks
from shared.files.retention import RetentionStore
from shared.periodic_service import PeriodicService
from shared.settings import Settings
from shared.storage.base import Storage
from shared.webhooks.outbox import Outbox

log = logging.getLogger(__name__)

_LOCK = "retention"
#: seconds between two runs, and between two looks at all that is stored
_INTERVAL, _LOOK_EVERY = 600.0, 3600.0
#: files that are removed, or looked up, together
_BATCH = 500
#: seconds for which webhooks that have ended can be looked at and replayed
_KEEP_DELIVERIES = 7 * 86_400.0


class Retention(PeriodicService):
    """Every worker has it; one of them at a time works, under a lock in the database."""

    def __init__(
        self,
        settings: Settings,
        worker_id: str,
        *,
        locks: NamedLocks,
        files: RetentionStore,
        outbox: Outbox,
        storage: Storage,
    ) -> None:
        super().__init__("retention", _INTERVAL, stop_timeout=2)
        self._keep_outputs = 3600 * settings.keep_outputs_hours
        self._keep_uploads = 3600 * settings.keep_uploads_hours
        self._keep_orphans = 3600 * settings.keep_orphans_hours
        self._worker_id = worker_id
        self._locks = locks
        self._files = files
        self._outbox = outbox
        self._storage = storage
        self._looked: float | None = None

    def run_once(self) -> bool:
        """Do all of it, unless another worker does. Raises Unavailable."""
        if not self._locks.try_lock(_LOCK, self._worker_id, 3 * _INTERVAL):
            return False
        self._outbox.prune(_KEEP_DELIVERIES)
        self._expire("output", self._files.expire_outputs, self._keep_outputs)
        self._expire("uploaded file", self._files.expire_files, self._keep_uploads)
        now = time.monotonic()
        self._storage.sweep()
        self._expire("input of no job", self._files.expire_unread_inputs, self._keep_orphans)
        if self._keep_orphans and (self._looked is None or now - self._looked >= _LOOK_EVERY):
            self._looked = now
            self.remove_orphans()
        return False

    def remove_orphans(self) -> None:
        """Remove what lies in the storage and no row names. Raises Unavailable."""
        for prefix, unnamed in (
            ("files", self._files.unnamed_files),
            ("outputs", self._files.unnamed_outputs),
            ("models", self._files.unnamed_models),
        ):
            # first what is stored, then the rows: a row that comes between them protects its file
            for keys in in_chunks(self._storage.older(prefix, self._keep_orphans), _BATCH):
                if self.stopping:
                    return
                self._remove(f"orphan in {prefix}/", unnamed(keys))

    def _expire(self, what: str, forget: Callable[[float, int], list[str]], seconds: float) -> None:
        """First the rows, then the files: who reads a row finds its file. 0 seconds are for ever."""
        while seconds and not self.stopping and (keys := forget(seconds, _BATCH)):
            self._remove(what, keys)

    def _remove(self, what: str, keys: Sequence[str]) -> None:
        for key in keys:
            self._storage.delete(key)
        if keys:
            log.info("removed %d × %s", len(keys), what)
