"""What goes wrong, in an order that a seed gives."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping

import httpx
import psutil

from tests.drills.stage import LEASE, UPKEEP, Stage, kill

#: seconds between two faults
_PAUSE = (0.7, 2.0)


def _kill_worker(stage: Stage, dice: random.Random) -> None:
    victim = dice.choice(stage.workers)
    stage.workers.remove(victim)
    kill(victim)
    stage.start_worker()


def _drain_worker(stage: Stage, dice: random.Random) -> None:
    """SIGTERM, and while it drains its successor starts."""
    leaver = dice.choice(stage.workers)
    stage.workers.remove(leaver)
    leaver.process.terminate()
    stage.start_worker()


def _kill_api(stage: Stage, dice: random.Random) -> None:
    if stage.api is not None:
        kill(stage.api)
    stage.start_api()


def _restart_valkey(stage: Stage, dice: random.Random) -> None:
    stage.valkey.kill()
    time.sleep(dice.uniform(0.0, 1.0))
    stage.valkey.start()


def _flush_valkey(stage: Stage, dice: random.Random) -> None:
    stage.valkey.flush()


def _hang_valkey(stage: Stage, dice: random.Random) -> None:
    stage.valkey.pause()
    time.sleep(dice.uniform(0.2, 1.5))
    stage.valkey.resume()


def _restart_postgres(stage: Stage, dice: random.Random) -> None:
    assert stage.postgres is not None
    stage.postgres.kill()
    time.sleep(dice.uniform(0.0, 0.5))
    stage.postgres.start()


def _poison_device(stage: Stage, dice: random.Random) -> None:
    """Some worker's device fails for good, and with it all that this worker has."""
    _order(stage, {"model": "fake", "input": {"prompt": "poison", "poison_at_step": 1}, "max_attempts": 1})


def _hang_load(stage: Stage, dice: random.Random) -> None:
    """Some worker loads a model for ever; the job that wanted it ends soon, others wait behind the load."""
    _order(stage, {"model": "fake-hanging", "input": {"prompt": "hang"}, "timeout": 0.5})


def _order(stage: Stage, body: dict[str, object]) -> None:
    """Submit a job of the drill's own, which the audit does not ask for, until it is acknowledged."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.post(f"{stage.url}/v1/jobs", json=body, timeout=10).status_code == 202:
                return
        time.sleep(0.2)
    raise AssertionError("nobody took the order for a fault")


def _stop_workers(stage: Stage, dice: random.Random) -> None:
    """SIGSTOP to a worker and all it started, until others have its jobs; then it goes on."""
    family = dice.choice(stage.workers).family()
    for process in family:
        process.suspend()
    time.sleep(LEASE + UPKEEP + dice.uniform(0.5, 3.0))
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def _fill_disk(stage: Stage, dice: random.Random) -> None:
    """No room for outputs, for scratch files, and on SQLite for the database."""
    assert stage.disk is not None
    stage.disk.fill()
    time.sleep(dice.uniform(0.5, 3.0))
    stage.disk.empty()


def _take_storage_away(stage: Stage, dice: random.Random) -> None:
    """As when its file system is unmounted for a while."""
    stage.wait_until_started()
    away = stage.storage.rename(stage.storage.with_name("away"))
    time.sleep(dice.uniform(0.5, 3.0))
    away.rename(stage.storage)


def _forbid_writes(stage: Stage, dice: random.Random) -> None:
    """As behind the name of a PostgreSQL that has become a standby, at times for longer than a lease."""
    assert stage.postgres is not None
    stage.postgres.read_only(True)
    time.sleep(dice.uniform(0.5, 2 * LEASE))
    stage.postgres.read_only(False)


FAULTS: Mapping[str, Callable[[Stage, random.Random], None]] = {
    "workers killed": _kill_worker,
    "workers drained": _drain_worker,
    "workers stopped": _stop_workers,
    "API killed": _kill_api,
    "Valkey killed": _restart_valkey,
    "Valkey flushed": _flush_valkey,
    "Valkey hung": _hang_valkey,
    "PostgreSQL killed": _restart_postgres,
    "device poisoned": _poison_device,
    "load hangs": _hang_load,
    "database read-only": _forbid_writes,
    "disk full": _fill_disk,
    "storage away": _take_storage_away,
}
#: how often a fault is in the pack, where not once: what a PostgreSQL forgets is what would hurt most
_TIMES = {"PostgreSQL killed": 2}


def impossible(stage: Stage) -> dict[str, str]:
    """The faults that cannot be made here, and why."""
    without = {}
    if stage.postgres is None:
        without |= dict.fromkeys(("PostgreSQL killed", "database read-only"), "SQLite is no server")
    if stage.disk is None:
        without["disk full"] = "no small disk can be mounted"
    return without


def inject(stage: Stage, seed: int, seconds: float) -> Counter[str]:
    """Break things for so long, and until each kind of fault has come; what was broken, and how often.

    Faults are dealt from a shuffled pack, so that each kind comes up about as often as the others. Call it
    on the main thread: what is started dies with the thread that started it."""
    dice = random.Random(seed)
    counts: Counter[str] = Counter()
    pack = _shuffled(stage, dice)
    missing = set(pack)
    until = time.monotonic() + seconds
    while missing or time.monotonic() < until:
        time.sleep(dice.uniform(*_PAUSE))
        pack = pack or _shuffled(stage, dice)
        name = pack.pop()
        FAULTS[name](stage, dice)
        counts[name] += 1
        missing.discard(name)
        counts += stage.revive()
    return counts


def _shuffled(stage: Stage, dice: random.Random) -> list[str]:
    without = impossible(stage)
    pack = [name for name in FAULTS if name not in without for _ in range(_TIMES.get(name, 1))]
    dice.shuffle(pack)
    return pack
