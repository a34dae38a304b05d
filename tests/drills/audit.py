"""What is true afterwards, from the database and the storage alone."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import sqlalchemy as sa

from shared.database import Database
from shared.jobs.states import TERMINAL
from shared.settings import Settings
from shared.storage import Storage
from shared.storage.factory import open_storage
from tests.drills.clients import Order
from tests.engines.contexts import Recorder
from worker.engines.base import Image, Work
from worker.engines.fake import FakeEngine


@dataclass
class Findings:
    """Ids of jobs, or storage keys, by what is wrong with them; a drill that holds finds nothing."""

    #: acknowledged, and not there; or they ended as they must not; or an output is missing or wrong
    lost: list[str] = field(default_factory=list)
    #: ended twice, made twice for one key, or with an output too many
    doubled: list[str] = field(default_factory=list)
    #: not ended, or still leased
    stuck: list[str] = field(default_factory=list)
    #: files that no row names
    orphaned: list[str] = field(default_factory=list)
    #: webhooks that never came, or that do not verify, and streams that did not end with ``done``
    untold: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(self.all())

    def all(self) -> list[str]:
        """Every finding."""
        return [*self.lost, *self.doubled, *self.stuck, *self.orphaned, *self.untold]


def unfinished(database: Database) -> int:
    """How many jobs have not ended."""
    ended = ", ".join(f"'{status.value}'" for status in TERMINAL)
    with database.read() as connection:
        return int(
            connection.execute(
                sa.text(f"SELECT count(*) FROM jobs WHERE status NOT IN ({ended})")
            ).scalar_one()
        )


def audit(settings: Settings, orders: Sequence[Order], acknowledged: Mapping[str, set[str]]) -> Findings:
    """Call when nothing runs any more."""
    found = Findings()
    database, storage = Database(settings.database_url), open_storage(settings)
    try:
        with database.read() as connection:
            jobs = {row.id: row for row in connection.execute(sa.text("SELECT * FROM jobs"))}
            outputs = list(connection.execute(sa.text("SELECT * FROM outputs")))
            ends = Counter(connection.execute(sa.text("SELECT job_id FROM drill_endings")).scalars())
        named: dict[str, list[sa.Row[tuple[object, ...]]]] = {}
        for output in outputs:
            named.setdefault(output.job_id, []).append(output)
        made = Counter(row.idempotency_key for row in jobs.values())
        for order in orders:
            for job_id in acknowledged[order.key]:
                row = jobs.get(job_id)
                if row is None:
                    found.lost.append(f"{job_id} is not there")
                    continue
                _check(
                    found, order, row, ends[job_id], named.get(job_id, []), storage, settings.data / "audit"
                )
            if made[order.key] != 1 or len(acknowledged[order.key]) != 1:
                found.doubled.append(f"{order.key}: {made[order.key]} jobs, {acknowledged[order.key]}")
        keys = {output.key for output in outputs}
        found.orphaned += [key for key in storage.list("outputs") if key not in keys]
    finally:
        database.dispose()
    return found


def _check(
    found: Findings,
    order: Order,
    row: sa.Row[tuple[object, ...]],
    ends: int,
    outputs: Sequence[sa.Row[tuple[object, ...]]],
    storage: Storage,
    scratch: Path,
) -> None:
    said = f"{row.id} ({order.key}) {row.status} in attempt {row.attempt}"
    if row.status not in TERMINAL or row.lease_until is not None:
        found.stuck.append(f"{said}, lease {row.lease_until}")
        return
    if ends != 1:
        found.doubled.append(f"{said}: ended {ends} times")
    if row.status not in order.endings:
        found.lost.append(f"{said}: {row.error}")
    wanted = 1 if row.status == "succeeded" else 0
    if len(outputs) > wanted:
        found.doubled.append(f"{said}: {len(outputs)} outputs")
    if len(outputs) < wanted:
        found.lost.append(f"{said}: no output")
    for output in outputs:
        if wrong := _wrong(order, output, storage, scratch):
            found.lost.append(f"{said}: {output.key} {wrong}")


def _wrong(order: Order, output: sa.Row[tuple[object, ...]], storage: Storage, scratch: Path) -> str | None:
    """What is wrong with the file of an output: its bytes, or its picture, which the input determines."""
    try:
        with storage.open(output.key) as file:
            content = file.read()
            file.seek(0)
            pixels = np.asarray(PIL.Image.open(file).convert("RGB"))
    except Exception as error:  # noqa: BLE001 - whatever it is, the output is not there
        return f"cannot be read: {error}"
    if (len(content), hashlib.sha256(content).hexdigest()) != (output.bytes, output.sha256):
        return "is not what its row says"
    undisturbed = {**order.body["input"], "step_seconds": 0}
    result = FakeEngine().run(
        None, Work(job_id="", task="text-to-image", input=undisturbed), Recorder(scratch)
    )
    [image] = result.outputs
    assert isinstance(image, Image)
    return None if np.array_equal(image.pixels, pixels) else "shows another picture"
