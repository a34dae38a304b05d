"""One frozen ``Settings``; nothing else reads the environment.

Each setting is declared once, as a field of ``Settings`` with its default, help and parser. ``QANVAS_<NAME>``
sets it; ``SETTINGS`` is the table that ``docs/settings.md`` shows.
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
_DEFAULT_REDIS = "redis://127.0.0.1:6379/0"


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


def _setting(default: str, help: str, parse: Callable[[str], Any], *, secret: bool = False) -> Any:
    """A field of ``Settings``; a secret one is left out of its ``repr``."""
    return field(repr=not secret, metadata={"default": default, "help": help, "parse": parse})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, parsed. Each field states its default, as text, and its help."""

    data: Path = _setting("./data", "Folder of everything that is kept: database, outputs, downloads.", _data)
    host: str = _setting("127.0.0.1", "Address the API listens on. Any but loopback needs a key.", str)
    port: int = _setting("8000", "Port the API listens on; 0 takes a free one.", _port)
    database_url: str = _setting("", "SQLAlchemy URL; empty: SQLite in the data folder.", str)
    redis_url: str = _setting(_DEFAULT_REDIS, "Redis or Valkey: redis://, rediss://, redis+socket://.", str)
    valkey_memory_bytes: int = _setting(
        str(256 << 20),
        "Memory of the Valkey that `qanvas up` starts, in bytes; when it is full, the oldest events and "
        "previews go first. A Redis of your own has its own setting.",
        _server_bytes,
    )
    storage_url: str = _setting(
        "", "Where files lie: file:///path or s3://bucket/prefix; empty: the data folder.", str
    )
    catalog: Path | None = _setting(
        "", "TOML file of further models; empty: the starters alone.", _optional_path
    )
    queues: tuple[str, ...] = _setting(
        "default,training", "Queues a worker serves, separated by commas.", _names
    )
    slots: int = _setting(
        "12", "Jobs a worker holds at once: they share steps where that pays, or wait their turn.", _count
    )
    device: str = _setting(
        "auto", "Where models compute: auto, cpu, cuda, cuda:1, mps; all: a worker on each GPU.", str
    )
    memory_bytes: int = _setting(
        "0",
        "Budget for loaded models and what their calls take besides, in bytes; 0: most of the device's.",
        _bytes,
    )
    lease_seconds: float = _setting(
        "30", "Time without a sign of life after which a worker's jobs are taken back.", _positive
    )
    stall_seconds: float = _setting(
        "180",
        "Time without progress after which a worker's thread counts as hung. The worker then hands its jobs "
        "back and ends with status 75, to be started again.",
        _positive,
    )
    unfit_after: int = _setting(
        "3",
        "Kinds of jobs (model and task) that fail with `internal` in a row, with no success between them, "
        "after which a worker takes no more jobs until it is started again; 0: any number.",
        _limit,
    )
    max_attempts: int = _setting("3", "Attempts a job gets when it does not say.", _count)
    retry_base_seconds: float = _setting(
        "2",
        "Longest wait before a failed job's second attempt; it doubles with each one. The wait is random.",
        _positive,
    )
    retry_cap_seconds: float = _setting("300", "Longest wait before any attempt.", _positive)
    upkeep_seconds: float = _setting("2", "Time between two rounds of upkeep.", _positive)
    drain_seconds: float = _setting("20", "Grace for running jobs when a worker is told to stop.", _positive)
    api_threads: int = _setting("64", "Requests one API process works on at once.", _count)
    api_streams: int = _setting(
        "1000",
        "Event streams and waiting requests that one API process holds; one key has half at most.",
        _count,
    )
    api_client_seconds: float = _setting(
        "30",
        "Time for which a client may keep the API waiting: with a head, a pause in a body, or an answer.",
        _positive,
    )
    api_processes: int = _setting("1", "Processes of the API.", _count)
    max_body_bytes: int = _setting(str(32 << 20), "Largest JSON body.", _bytes)
    max_upload_bytes: int = _setting(
        str(2 << 30), "Largest file that is uploaded, or fetched from a URL.", _bytes
    )
    trusted_hosts: tuple[str, ...] = _setting(
        "",
        "Names besides loopback's under which a server without keys answers, separated by commas.",
        _any_names,
    )
    limit_requests: int = _setting("0", "Requests a minute that each key may make; 0: any number.", _limit)
    limit_submissions: int = _setting("0", "Jobs a minute that each key may submit; 0: any number.", _limit)
    limit_queued: int = _setting("0", "Jobs that a tenant may have waiting; 0: any number.", _limit)
    limit_running: int = _setting("0", "Jobs that a tenant may have running at once; 0: any number.", _limit)
    limit_storage_bytes: int = _setting(
        "0", "Bytes that a tenant's files, outputs and jobs may take; 0: any.", _limit
    )
    webhook_allow_private: bool = _setting("0", "1 lets webhooks go to private addresses.", _flag)
    input_allow_private: bool = _setting("0", "1 lets input files be fetched from private addresses.", _flag)
    fetch_seconds: float = _setting(
        "120", "Time that fetching one input file from a URL may take.", _positive
    )
    keep_outputs_hours: float = _setting(
        "0", "Time after which a finished job's outputs are removed; 0: never.", _hours
    )
    keep_uploads_hours: float = _setting(
        "0", "Time after which an uploaded file is removed; 0: never.", _hours
    )
    keep_orphans_hours: float = _setting(
        "24", "Time after which a stored file without an owner is removed; 0: never.", _hours
    )
    fake_models: bool = _setting(
        "0", "1 puts the models `fake` and `fake-hanging` into the catalog, for drills and load tests.", _flag
    )
    url: str = _setting("", "Where client commands find the server; empty: the one on the data folder.", str)
    key: str = _setting("", "Key that client commands show the server.", str, secret=True)
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR.", _level)

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

    @property
    def has_own_redis(self) -> bool:
        """Whether a Redis is named; where none is, ``qanvas up`` starts one."""
        return self.redis_url != _DEFAULT_REDIS


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


#: the settings as a table, in the order of ``docs/settings.md``
SETTINGS = tuple(Setting(name=one.name, **one.metadata) for one in fields(Settings))
