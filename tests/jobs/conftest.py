"""A store and leases over the database of the test."""

from __future__ import annotations

import pytest

from shared.db.engine import Database
from shared.jobs.leases import Leases
from shared.jobs.reaper import Reaper
from shared.jobs.store import JobStore


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database, lease_seconds=30)


@pytest.fixture
def reaper(database: Database) -> Reaper:
    return Reaper(database)
