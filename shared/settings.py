"""One frozen ``Settings``; nothing else reads the environment.

Each setting is a row of ``SETTINGS``: name, default, help. ``QANVAS_<NAME>`` sets it, and
``docs/settings.md`` lists the same table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import ConfigurationError

PREFIX = "QANVAS_"


class Setting(NamedTuple):
    name: str
    default: str
    help: str
    parse: Callable[[str], Any]


def _flag(text: str) -> bool:
    match text.strip().lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "" | "0" | "false" | "no" | "off":
            return False
    raise ValueError("expected 1 or 0")


def _names(text: str) -> tuple[str, ...]:
    if not (names := tuple(name for name in (part.strip() for part in text.split(",")) if name)):
        raise ValueError("expected at least one name")
    return names


def _any_names(text: str) -> tuple[str, ...]:
    return _names(text) if text.strip() else ()


def _optional_path(text: str) -> Path | None:
    return _path(text) if text else None


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser().resolve()
    except RuntimeError as error:  # a home that is not known, or links that lead to each other
        raise ValueError(f"{error}; expected an absolute path") from None


def _data(text: str) -> Path:
    if not text.strip():
        raise ValueError("expected a folder")
    path = _path(text)
    if any(character in str(path) for character in "?\n\r\0"):
        raise ValueError("expected a path without question marks and line breaks")
    return path


def _positive(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError("expected a number above 0")
    return value


def _hours(text: str) -> float:
    if not 0 <= (value := float(text)) < float("inf"):
        raise ValueError("expected a number of hours, or 0")
    return value


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError("expected a whole number of at least 1")
    return value


def _bytes(text: str) -> int:
    if (value := int(text)) < 0:
        raise ValueError("expected a whole number of bytes")
    return value


def _server_bytes(text: str) -> int:
    if (value := int(text)) < 16 << 20:
        raise ValueError("expected at least 16777216 bytes, 16 MiB")
    return value


def _limit(text: str) -> int:
    if (value := int(text)) < 0:
        raise ValueError("expected a whole number, or 0 for none")
    return value


def _port(text: str) -> int:
    if not 0 <= (value := int(text)) <= 65535:
        raise ValueError("expected 0 to 65535")
    return value


def _level(text: str) -> str:
    if (level := text.strip().upper()) not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("expected DEBUG, INFO, WARNING or ERROR")
    return level


SETTINGS: tuple[Setting, ...] = (
    Setting("data", "./data", "Folder of everything that is kept: database, outputs, downloads.", _data),
    Setting("host", "127.0.0.1", "Address the API listens on. Any but loopback needs a key.", str),
    Setting("port", "8000", "Port the API listens on; 0 takes a free one.", _port),
    Setting("database_url", "", "SQLAlchemy URL; empty: SQLite in the data folder.", str),
    Setting(
        "redis_url", "redis://127.0.0.1:6379/0", "Redis or Valkey: redis://, rediss://, redis+socket://.", str
    ),
    Setting(
        "valkey_memory_bytes",
        str(256 << 20),
        "Memory of the Valkey that `qanvas up` starts, in bytes; when it is full, the oldest events and "
        "previews go first. A Redis of your own has its own setting.",
        _server_bytes,
    ),
    Setting(
        "storage_url", "", "Where files lie: file:///path or s3://bucket/prefix; empty: the data folder.", str
    ),
    Setting("catalog", "", "TOML file of further models; empty: the starters alone.", _optional_path),
    Setting("queues", "default,training", "Queues a worker serves, separated by commas.", _names),
    Setting(
        "slots",
        "12",
        "Jobs a worker holds at once: they share steps where that pays, or wait their turn.",
        _count,
    ),
    Setting(
        "device",
        "auto",
        "Where models compute: auto, cpu, cuda, cuda:1, mps; all: a worker on each GPU.",
        str,
    ),
    Setting(
        "memory_bytes",
        "0",
        "Budget for loaded models and what their calls take besides, in bytes; 0: most of the device's.",
        _bytes,
    ),
    Setting(
        "lease_seconds",
        "30",
        "Time without a sign of life after which a worker's jobs are taken back.",
        _positive,
    ),
    Setting(
        "stall_seconds",
        "180",
        "Time without progress after which a worker's thread counts as hung. The worker then hands its jobs "
        "back and ends with status 75, to be started again.",
        _positive,
    ),
    Setting(
        "unfit_after",
        "3",
        "Kinds of jobs (model and task) that fail with `internal` in a row, with no success between them, "
        "after which a worker takes no more jobs until it is started again; 0: any number.",
        _limit,
    ),
    Setting("max_attempts", "3", "Attempts a job gets when it does not say.", _count),
    Setting(
        "retry_base_seconds",
        "2",
        "Longest wait before a failed job's second attempt; it doubles with each one. The wait is random.",
        _positive,
    ),
    Setting("retry_cap_seconds", "300", "Longest wait before any attempt.", _positive),
    Setting("upkeep_seconds", "2", "Time between two rounds of upkeep.", _positive),
    Setting("drain_seconds", "20", "Grace for running jobs when a worker is told to stop.", _positive),
    Setting("api_threads", "64", "Requests one API process works on at once.", _count),
    Setting(
        "api_streams",
        "1000",
        "Event streams and waiting requests that one API process holds; one key has half at most.",
        _count,
    ),
    Setting(
        "api_client_seconds",
        "30",
        "Time for which a client may keep the API waiting: with a head, a pause in a body, or an answer.",
        _positive,
    ),
    Setting("api_processes", "1", "Processes of the API.", _count),
    Setting("max_body_bytes", str(32 << 20), "Largest JSON body.", _bytes),
    Setting(
        "max_upload_bytes", str(2 << 30), "Largest file that is uploaded, or fetched from a URL.", _bytes
    ),
    Setting(
        "trusted_hosts",
        "",
        "Names besides loopback's under which a server without keys answers, separated by commas.",
        _any_names,
    ),
    Setting("limit_requests", "0", "Requests a minute that each key may make; 0: any number.", _limit),
    Setting("limit_submissions", "0", "Jobs a minute that each key may submit; 0: any number.", _limit),
    Setting("limit_queued", "0", "Jobs that a tenant may have waiting; 0: any number.", _limit),
    Setting("limit_running", "0", "Jobs that a tenant may have running at once; 0: any number.", _limit),
    Setting(
        "limit_storage_bytes", "0", "Bytes that a tenant's files, outputs and jobs may take; 0: any.", _limit
    ),
    Setting("webhook_allow_private", "0", "1 lets webhooks go to private addresses.", _flag),
    Setting("input_allow_private", "0", "1 lets input files be fetched from private addresses.", _flag),
    Setting("fetch_seconds", "120", "Time that fetching one input file from a URL may take.", _positive),
    Setting(
        "keep_outputs_hours", "0", "Time after which a finished job's outputs are removed; 0: never.", _hours
    ),
    Setting("keep_uploads_hours", "0", "Time after which an uploaded file is removed; 0: never.", _hours),
    Setting(
        "keep_orphans_hours",
        "24",
        "Time after which a stored file without an owner is removed; 0: never.",
        _hours,
    ),
    Setting(
        "fake_models",
        "0",
        "1 puts the models `fake` and `fake-hanging` into the catalog, for drills and load tests.",
        _flag,
    ),
    Setting("url", "", "Where client commands find the server; empty: the one on the data folder.", str),
    Setting("key", "", "Key that client commands show the server.", str),
    Setting("log_level", "INFO", "DEBUG, INFO, WARNING or ERROR.", _level),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, parsed; the table above explains each."""

    data: Path
    host: str
    port: int
    database_url: str
    redis_url: str
    valkey_memory_bytes: int
    storage_url: str
    catalog: Path | None
    queues: tuple[str, ...]
    slots: int
    device: str
    memory_bytes: int
    lease_seconds: float
    stall_seconds: float
    unfit_after: int
    max_attempts: int
    retry_base_seconds: float
    retry_cap_seconds: float
    upkeep_seconds: float
    drain_seconds: float
    api_threads: int
    api_streams: int
    api_client_seconds: float
    api_processes: int
    max_body_bytes: int
    max_upload_bytes: int
    trusted_hosts: tuple[str, ...]
    limit_requests: int
    limit_submissions: int
    limit_queued: int
    limit_running: int
    limit_storage_bytes: int
    webhook_allow_private: bool
    input_allow_private: bool
    fetch_seconds: float
    keep_outputs_hours: float
    keep_uploads_hours: float
    keep_orphans_hours: float
    fake_models: bool
    url: str
    key: str = field(repr=False)
    log_level: str

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read ``QANVAS_*``. Raises ConfigurationError naming the variable, unknown ones too."""
        env = os.environ if env is None else env
        known = {PREFIX + setting.name.upper(): setting for setting in SETTINGS}
        if unknown := sorted(name for name in env if name.startswith(PREFIX) and name not in known):
            raise ConfigurationError(
                f"unknown setting {unknown[0]}; see docs/settings.md for those there are"
            )
        values: dict[str, Any] = {}
        for variable, setting in known.items():
            text = env.get(variable, setting.default)
            try:
                values[setting.name] = setting.parse(text)
            except ValueError as error:
                raise ConfigurationError(f"{variable}={text!r}: {error}. {setting.help}") from None
        return cls(**values).resolved()

    def resolved(self) -> Settings:
        """Fill in what follows from the data folder."""
        return replace(
            self,
            database_url=self.database_url or f"sqlite:///{self.data / 'qanvas.db'}",
            storage_url=self.storage_url or (self.data / "storage").as_uri(),
        )

    def with_(self, **changes: Any) -> Settings:
        """The same settings with some of them replaced."""
        return replace(self, **changes)

    def as_env(self) -> dict[str, str]:
        """The variables that make ``from_env`` give these settings again, for a child process."""
        return {PREFIX + field.name.upper(): _as_text(getattr(self, field.name)) for field in fields(self)}

    @property
    def is_loopback(self) -> bool:
        """Whether the API can be reached from this machine alone."""
        return _is_loopback(self.host)


@cache  # each request asks
def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)
