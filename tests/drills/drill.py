"""One drill from the first submission to the audit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from shared.db.engine import Database
from tests.drills.audit import Findings, audit, unfinished
from tests.drills.clients import Clients
from tests.drills.faults import impossible, inject
from tests.drills.orders import SECRET, Order, orders
from tests.drills.stage import Stage, stage
from tests.receivers import Answer, Receiver, Request, receiving

#: seconds that everything may take to end once nothing breaks any more
PATIENCE = 180.0


@dataclass(frozen=True, slots=True)
class Report:
    """What was broken, and what came of it. ``str`` of it is what a drill prints."""

    database: str
    seed: int
    jobs: int
    faults: Mapping[str, int]
    retries: int
    odd: tuple[str, ...]
    seconds: float
    found: Findings
    #: faults that could not be made, and why
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def broken(self) -> str:
        """The faults in words."""
        counts = [f"{name} {count}" for name, count in sorted(self.faults.items()) if count]
        return ", ".join([*counts, f"requests repeated {self.retries}"])

    def __str__(self) -> str:
        found = self.found
        head = (
            f"{self.database}, seed {self.seed}: {self.jobs} jobs in {self.seconds:.0f} s; {self.broken}\n"
            f"lost {len(found.lost)}, doubled {len(found.doubled)}, stuck {len(found.stuck)}; "
            f"attempts miscounted, or jobs out of turn {len(found.unproven)}; "
            f"files orphaned {len(found.orphaned)}, streams and webhooks missing {len(found.untold)}"
        )
        without = [f"without {name}: {reason}" for name, reason in self.without.items()]
        return "\n".join([head, *without, *found.all(), *self.odd])


def drill(folder: Path, dialect: str, *, seed: int, jobs: int, seconds: float) -> Report:
    """Submit ``jobs`` over ``seconds`` while things break, let all end in peace, then look what is true."""
    began = time.monotonic()
    with receiving(_moody) as hooks, stage(folder, dialect) as up:
        todo = orders(jobs, seed, hooks.url)
        clients = Clients(up.url, todo, seconds)
        faults = inject(up, seed, seconds)
        clients.wait(PATIENCE)
        faults += _wait_for_the_end(up)
        untold = _wait_for_word(todo, clients, hooks)
        for worker in up.workers:
            worker.stop(60)
        found = audit(up.settings, todo, clients.acknowledged)
        found.untold += untold
        return Report(
            database=dialect,
            seed=seed,
            jobs=jobs,
            faults=faults,
            retries=clients.retries,
            odd=(*clients.odd, *up.broken_off()),
            seconds=time.monotonic() - began,
            found=found,
            without=impossible(up),
        )


def _moody(number: int, request: Request) -> Answer:
    """A receiver that fails now and then, so that some deliveries are tried again."""
    return Answer(503 if number % 17 == 3 else 200)


def _wait_for_word(todo: Sequence[Order], clients: Clients, hooks: Receiver) -> list[str]:
    """What nobody was told in time: webhooks, each verified by the published library, and streams' ends."""
    wanted = {order.key: order.endings for order in todo if "webhook" in order.body}
    deadline = time.monotonic() + PATIENCE
    read = 0
    wrong = []
    while (wanted or clients.following) and time.monotonic() < deadline:
        for request in hooks.requests[read:]:
            read += 1
            key = request.path.rpartition("/")[2]
            try:
                event = Verifier(SECRET).verify(request.body, dict(request.headers))
            except WebhookVerificationError as error:
                wrong.append(f"{key}: {error}")
                continue
            if event["data"]["status"] in wanted.get(key, ()):
                del wanted[key]
        time.sleep(0.2)
    return [
        *wrong,
        *(f"{key}: no webhook" for key in wanted),
        *(f"{key}: no done" for key in clients.following),
    ]


def _wait_for_the_end(up: Stage) -> Counter[str]:
    """How many workers ended by themselves meanwhile, as ``Stage.revive`` counts them.

    A job that does not end is the audit's to report, so this gives up without a word."""
    ended: Counter[str] = Counter()
    database = Database(up.settings.database_url)
    deadline = time.monotonic() + PATIENCE
    try:
        while unfinished(database) and time.monotonic() < deadline:
            ended += up.revive()
            time.sleep(0.5)
        return ended
    finally:
        database.dispose()
