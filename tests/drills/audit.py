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

from shared.db import tables
from shared.db.engine import Database
from shared.settings import Settings
from shared.states import TERMINAL
from shared.storage import Storage
from shared.storage.factory import open_storage
from tests.drills.history import History, Row, proven
from tests.drills.orders import Order
from tests.engines.contexts import Recorder
from worker.engines.contract.engine import Image, Work
from worker.engines.fake.engine import FakeEngine, Pixels


@dataclass
class Findings:
    """Ids of jobs, or storage keys, by what is wrong with them; a drill that holds finds nothing."""

    #: acknowledged, and not there; or they ended as they must not; or an output is missing or wrong
    lost: list[str] = field(default_factory=list)
    #: ended twice, made twice for one key, or with an output too many
    doubled: list[str] = field(default_factory=list)
    #: not ended, or still leased
    stuck: list[str] = field(default_factory=list)
    #: an attempt that nobody counted, or a job that ran before what it waits for
    unproven: list[str] = field(default_factory=list)
    #: files that no row names, and checkpoints, which no job that has ended needs
    orphaned: list[str] = field(default_factory=list)
    #: webhooks that never came, or that do not verify, and streams that did not end with ``done``
    untold: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(self.all())

    def all(self) -> list[str]:
        """Every finding."""
        return [*self.lost, *self.doubled, *self.stuck, *self.unproven, *self.orphaned, *self.untold]


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
            jobs = {row.id: row for row in connection.execute(sa.select(tables.jobs))}
            outputs = list(connection.execute(sa.text("SELECT * FROM outputs")))
            history = History.read(connection)
        named: dict[str, list[Row]] = {}
        for output in outputs:
            named.setdefault(output.job_id, []).append(output)
        made = Counter(row.idempotency_key for row in jobs.values())
        by_key = {row.idempotency_key: row for row in jobs.values()}
        pictures = Pictures(orders, settings.data / "audit")
        for order in orders:
            for job_id in acknowledged[order.key]:
                row = jobs.get(job_id)
                if row is None:
                    found.lost.append(f"{job_id} is not there")
                    continue
                if _check(found, order, row, history, by_key):
                    found_of = _outputs(order, row, named.get(job_id, []), storage, pictures)
                    found.lost += found_of.lost
                    found.doubled += found_of.doubled
            if made[order.key] != 1 or len(acknowledged[order.key]) != 1:
                found.doubled.append(f"{order.key}: {made[order.key]} jobs, {acknowledged[order.key]}")
        keys = {output.key for output in outputs}
        for folder in ("outputs", "models", "checkpoints"):
            found.orphaned += [key for key in storage.list(folder) if key not in keys]
    finally:
        database.dispose()
    return found


def _check(found: Findings, order: Order, row: Row, history: History, by_key: Mapping[str, Row]) -> bool:
    """What is wrong with how it ended; False when it has not."""
    said = _said(order, row)
    if row.status not in TERMINAL or row.lease_until is not None:
        found.stuck.append(f"{said}, lease {row.lease_until}")
        return False
    if (ends := history.endings(row.id)) != 1:
        found.doubled.append(f"{said}: ended {ends} times")
    if row.status not in order.endings:
        found.lost.append(f"{said}: {row.error}")
    found.unproven += [f"{said}: {wrong}" for wrong in proven(history, order, row, by_key)]
    return True


def _outputs(
    order: Order, row: Row, outputs: Sequence[Row], storage: Storage, pictures: Pictures
) -> Findings:
    """What is wrong with the outputs of an ended job."""
    said, found = _said(order, row), Findings()
    wanted = 1 if row.status == "succeeded" else 0
    if len(outputs) > wanted:
        found.doubled.append(f"{said}: {len(outputs)} outputs")
    if len(outputs) < wanted:
        found.lost.append(f"{said}: no output")
    for output in outputs:
        if wrong := _wrong(output, storage, pictures.of(order.key)):
            found.lost.append(f"{said}: {output.key} {wrong}")
    return found


def _said(order: Order, row: Row) -> str:
    return f"{row.id} ({order.key}) {row.status} in attempt {row.attempt}"


def _wrong(output: Row, storage: Storage, wanted: Pixels) -> str | None:
    """What is wrong with the file of an output: its bytes, or its picture, which the inputs determine."""
    try:
        with storage.open(output.key) as file:
            content = file.read()
            file.seek(0)
            pixels = np.asarray(PIL.Image.open(file).convert("RGB"))
    except Exception as error:  # noqa: BLE001 - whatever it is, the output is not there
        return f"cannot be read: {error}"
    if (len(content), hashlib.sha256(content).hexdigest()) != (output.bytes, output.sha256):
        return "is not what its row says"
    return None if np.array_equal(wanted, pixels) else "shows another picture"


class Pictures:
    """What undisturbed runs draw, those included whose pictures others draw upon."""

    def __init__(self, orders: Sequence[Order], scratch: Path) -> None:
        self._orders = {order.key: order for order in orders}
        self._scratch = scratch
        self._drawn: dict[str, Pixels] = {}

    def of(self, key: str) -> Pixels:
        """Pixels, shape (height, width, 3)."""
        if key not in self._drawn:
            order = self._orders[key]
            given = {**order.body["input"], "step_seconds": 0, "fail_attempts": 0}
            if order.reads is not None:
                given["image"] = self.of(order.reads)
            work = Work(job_id="", task="text-to-image", input=given)
            [image] = FakeEngine().run(None, work, Recorder(self._scratch)).outputs
            assert isinstance(image, Image)
            self._drawn[key] = image.pixels
        return self._drawn[key]
