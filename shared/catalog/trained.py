"""Models that jobs trained, as rows; the catalog reads them beside its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import models


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModelRow:
    """``entry`` is what the catalog's ``Model`` was serialised to; ``job_id`` the training job."""

    tenant: str
    id: str
    job_id: str
    entry: Mapping[str, Any]
    created_at: float


class TrainedModels:
    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, tenant: str, *, after: str = "", limit: int | None = None) -> list[TrainedModelRow]:
        """A tenant's trained models, by id, those that come after this one."""
        query = sa.select(models).where(models.c.tenant == tenant, models.c.id > after)
        query = query.order_by(models.c.id).limit(limit)
        with self._database.read() as connection:
            return [TrainedModelRow(**row._mapping) for row in connection.execute(query)]

    def get(self, model_id: str, tenant: str) -> TrainedModelRow | None:
        """One of them, or None."""
        query = sa.select(models).where(models.c.tenant == tenant, models.c.id == model_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else TrainedModelRow(**row._mapping)
