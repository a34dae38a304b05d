"""How long until a waiting job starts, from what workers have lately measured. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from shared.jobs.workers import Worker


def seconds_until_start(queue: str, position: int | None, workers: Sequence[Worker]) -> float | None:
    """Seconds until a job with so many before it starts; None where that cannot be known.

    ``workers`` are those alive. With S slots that serve the queue, F of them free, and jobs that hold a slot
    for P seconds in the mean, a slot becomes free every P / S seconds, so a job at position n starts after

        (n + 1 - F) * P / S    or at once where n < F.

    P is the mean of what the workers report for the queue, each weighted by its slots.
    """
    serving = [worker for worker in workers if worker.slots_for(queue)]
    if position is None or not serving:
        return None
    slots = sum(worker.slots_for(queue) for worker in serving)
    free = sum(max(0, worker.slots_for(queue) - worker.busy.get(queue, 0)) for worker in serving)
    if position < free:
        return 0.0
    paces = [(worker.pace[queue], worker.slots_for(queue)) for worker in serving if queue in worker.pace]
    if not paces:
        return None
    pace = sum(seconds * weight for seconds, weight in paces) / sum(weight for _, weight in paces)
    return round((position + 1 - free) * pace / slots, 3)
