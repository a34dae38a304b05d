"""What the parts of one worker share."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from shared.db.named_locks import NamedLocks
from shared.jobs.completion import CompletionHandler
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.store import JobStore
from shared.jobs.workers import WorkerRegistry
from shared.messaging.events import Events
from shared.messaging.tickets import Tickets
from shared.settings import Settings
from worker.attempts.checkpoints import Checkpoints
from worker.attempts.lease_renewal import LeaseRenewer
from worker.attempts.leftovers import Leftovers
from worker.attempts.results import Results
from worker.attempts.scratch import Scratch
from worker.attempts.write_probe import WriteProbe


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """One of each; ``worker.container`` makes and closes them."""

    worker_id: str
    settings: Settings
    leases: Leases
    reaper: Reaper
    registry: WorkerRegistry
    locks: NamedLocks
    jobs: JobStore
    tickets: Tickets
    events: Events
    completion: CompletionHandler
    results: Results
    checkpoints: Checkpoints
    leftovers: Leftovers
    scratch: Scratch
    fitness: WriteProbe
    #: renews the leases of this worker's jobs, and knows which they are
    keeper: LeaseRenewer
    #: taken by claims and by ends of jobs: at once they would take longer, each with fewer jobs
    write_turns: threading.Lock
