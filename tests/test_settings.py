"""Settings come from one table, and a wrong one is named."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import SETTINGS, Settings


def test_the_table_and_the_record_name_the_same_settings() -> None:
    assert [setting.name for setting in SETTINGS] == [field.name for field in fields(Settings)]


def test_every_default_parses() -> None:
    settings = Settings.from_env({})
    assert settings.database_url == f"sqlite:///{Path('data').resolve() / 'qanvas.db'}"
    assert settings.storage_url == (Path("data").resolve() / "storage").as_uri()
    assert settings.is_loopback


def test_a_child_process_gets_the_very_same_settings() -> None:
    settings = Settings.from_env(
        {
            "QANVAS_QUEUES": "a, b",
            "QANVAS_FAKE_MODELS": "yes",
            "QANVAS_CATALOG": "/x.toml",
        }
    )
    assert settings.queues == ("a", "b")
    assert Settings.from_env(settings.as_env()) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QANVAS_PORT", "99999"),
        ("QANVAS_PORT", "http"),
        ("QANVAS_LEASE_SECONDS", "0"),
        ("QANVAS_LEASE_SECONDS", "nan"),
        ("QANVAS_SLOTS", "-1"),
        ("QANVAS_FAKE_MODELS", "perhaps"),
        ("QANVAS_LOG_LEVEL", "loud"),
        ("QANVAS_QUEUES", " , "),
        ("QANVAS_PROT", "8000"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_env({name: value})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.1.2.3", True), ("0.0.0.0", False),
     ("127.evil.example", False), ("10.0.0.1", False)],
)  # fmt: skip
def test_only_this_machines_own_addresses_are_loopback(host: str, loopback: bool) -> None:
    assert Settings.from_env({"QANVAS_HOST": host}).is_loopback is loopback
