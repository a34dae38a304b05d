"""Celery, RQ, Huey and Dramatiq, each with its documented settings for not losing work.

A worker (``bench.drills.worker``) runs one job at a time. Where a system can be told how soon to take a dead
worker's job back, it is told ``NOTICE`` seconds.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import redis

from bench.drills.work import work

NOTICE = 10  #: seconds; longer than any job of the drill, as Celery's visibility timeout must be


class Rival(ABC):
    """One system, over an empty Redis. ``settings`` and ``default`` are for the table."""

    name: str
    settings: str
    default: str  #: what the time to notice is without the drill's setting

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.url, self.folder = redis_url, str(folder)
        self.redis: Any = redis.Redis.from_url(redis_url)

    @abstractmethod
    def submit(self, job: str, seconds: float) -> None:
        """One job that does ``work``."""

    @abstractmethod
    def run(self) -> None:
        """Be a worker until killed."""

    @abstractmethod
    def held(self) -> int:
        """Jobs that the system still knows and has not finished, what it gave up among them."""


class Celery(Rival):
    name = "Celery"
    settings = (
        "`task_acks_late`, `task_reject_on_worker_lost`, `worker_prefetch_multiplier=1`, "
        f"`visibility_timeout={NOTICE}`, `unacked_restore_interval=2`, `unacked_restore_throttle=1`, "
        f"`unacked_mutex_expire={NOTICE}`"
    )
    default = "1 h"

    def __init__(self, redis_url: str, folder: Path) -> None:
        import celery

        super().__init__(redis_url, folder)
        self.app = celery.Celery("drill", broker=redis_url)
        self.app.conf.update(
            task_acks_late=True,
            task_reject_on_worker_lost=True,
            task_ignore_result=True,
            worker_prefetch_multiplier=1,
            broker_connection_retry_on_startup=True,
            broker_transport_options={
                "visibility_timeout": NOTICE,
                "unacked_restore_interval": 2,
                "unacked_restore_throttle": 1,
                # 300 s by default: for so long nobody restores when one dies while it does
                "unacked_mutex_expire": NOTICE,
            },
        )
        self.task: Any = self.app.task(name="work")(work)

    def submit(self, job: str, seconds: float) -> None:
        self.task.delay(self.folder, job, seconds)

    def run(self) -> None:
        self.app.worker_main(["worker", "--pool=prefork", "--concurrency=1", "--loglevel=WARNING"])

    def held(self) -> int:
        return int(self.redis.llen("celery") + self.redis.hlen("unacked"))


class Rq(Rival):
    name = "RQ"
    settings = (
        f"`Retry(max=3)`, `job_monitoring_interval={NOTICE}`, `maintenance_interval={NOTICE}`, "
        f"`worker_ttl={15 + NOTICE}`"
    )
    default = "90 s, looked for each 10 min"

    def __init__(self, redis_url: str, folder: Path) -> None:
        import rq

        super().__init__(redis_url, folder)
        self.queue = rq.Queue("drill", connection=self.redis)

    def submit(self, job: str, seconds: float) -> None:
        import rq

        self.queue.enqueue(work, self.folder, job, seconds, job_id=job, retry=rq.Retry(max=3), job_timeout=60)

    def run(self) -> None:
        import rq

        worker = rq.Worker(
            [self.queue],
            connection=self.redis,
            job_monitoring_interval=NOTICE,
            maintenance_interval=NOTICE,
            worker_ttl=15 + NOTICE,  # an idle worker looks up 15 s before it would count as dead
        )
        worker.work(with_scheduler=True, logging_level="WARNING")

    def held(self) -> int:
        registries = (
            self.queue.started_job_registry,
            self.queue.scheduled_job_registry,
            self.queue.failed_job_registry,
        )
        known = set(self.queue.job_ids)
        for registry in registries:
            known.update(registry.get_job_ids(cleanup=False))
        return len(known)


class Huey(Rival):
    name = "Huey"
    settings = "`RedisHuey`, `retries=3`, process workers"
    default = "never"

    def __init__(self, redis_url: str, folder: Path) -> None:
        import huey

        super().__init__(redis_url, folder)
        self.huey = huey.RedisHuey("drill", url=redis_url, results=False)
        self.task: Any = self.huey.task(retries=3)(work)

    def submit(self, job: str, seconds: float) -> None:
        self.task(self.folder, job, seconds)

    def run(self) -> None:
        self.huey.create_consumer(workers=1, worker_type="process", max_delay=0.5).run()

    def held(self) -> int:
        return int(self.huey.pending_count() + self.huey.scheduled_count())


class Dramatiq(Rival):
    name = "Dramatiq"
    settings = f"`max_retries=3`, `heartbeat_timeout={NOTICE}` s, `maintenance_chance` 10 % instead of 0.1 %"
    default = "60 s, looked for at one command in 1,000"

    def __init__(self, redis_url: str, folder: Path) -> None:
        import dramatiq
        from dramatiq.brokers.redis import RedisBroker

        super().__init__(redis_url, folder)
        broker: Any = RedisBroker  # its types do not know what it takes
        self.broker = broker(url=redis_url, heartbeat_timeout=1000 * NOTICE, maintenance_chance=100_000)
        declare = dramatiq.actor(broker=self.broker, queue_name="drill", max_retries=3)
        self.task: Any = declare(work)

    def submit(self, job: str, seconds: float) -> None:
        self.task.send(self.folder, job, seconds)

    def run(self) -> None:
        import dramatiq

        dramatiq.Worker(self.broker, worker_threads=1).start()
        threading.Event().wait()

    def held(self) -> int:
        """Messages stay in a hash until they are acknowledged; delayed and dead ones have their own."""
        return sum(int(self.redis.hlen(f"dramatiq:drill{kind}.msgs")) for kind in ("", ".DQ", ".XQ"))


RIVALS = {rival.name: rival for rival in (Celery, Rq, Huey, Dramatiq)}
