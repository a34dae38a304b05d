"""``qanvas tenants``: what each may use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from cli import options
from cli.console import console
from cli.extras import needs

if TYPE_CHECKING:
    from shared.accounts.tenants import Tenants

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class _Bytes(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """``10g`` and ``10 GiB`` are 10 · 1024³ bytes."""
        if (found := _SIZE.fullmatch(str(value).strip())) is None:
            self.fail(f"{value!r} is no size; write 500000, 500M or 10G", param, ctx)
        return int(float(found[1]) * 1024 ** _POWERS[found[2].lower()])


@click.group()
def tenants() -> None:
    """Set, list and reset what tenants may use; QANVAS_LIMIT_… says what holds for all others."""


@tenants.command("set")
@click.argument("name")
@click.option("--requests", type=int, help="Requests a minute that each of its keys may make.")
@click.option("--submissions", type=int, help="Jobs a minute that each of its keys may submit.")
@click.option("--queued", type=int, help="Jobs that it may have waiting.")
@click.option("--running", type=int, help="Jobs that it may have running at once.")
@click.option("--storage", "storage_bytes", type=_Bytes(), help="What its files may take: 500M, 10G.")
@click.option("--weight", type=float, help="Its share among tenants that wait at once; 1 is the usual.")
@options.data
def set_(name: str, data: Path | None, **given: float | None) -> None:
    """Set limits of one tenant, or its weight; 0 is no limit, those not given stay as they are.

    Running servers and workers follow within a second. A weight holds for what is queued from now on.
    """
    changes = {limit: size for limit, size in given.items() if size is not None}
    if not changes:
        raise click.UsageError("give at least one limit, such as --queued 1000, or a --weight")
    _store(data).set(name, changes)
    said = ", ".join(f"{limit} {_shown(size)}" for limit, size in changes.items())
    click.echo(f"{name}: {said}", err=True)


@tenants.command("list")
@options.data
@needs("server")
def list_(data: Path | None) -> None:
    """The tenants with limits or a weight of their own; what is empty is as the settings say."""
    from shared.accounts.tenants import SETTABLE

    table = Table("tenant", *(limit.replace("_", " ") for limit in SETTABLE), box=None)
    for name, own in _store(data).list():
        table.add_row(name, *(_shown(own[limit]) for limit in SETTABLE))
    console().print(table)


@tenants.command()
@click.argument("name")
@options.data
def reset(name: str, data: Path | None) -> None:
    """Let the settings' limits hold for a tenant again."""
    _store(data).reset(name)
    click.echo(f"{name} has no limits of its own any more", err=True)


def _shown(size: float | None) -> str:
    return "" if size is None else f"{size:.15g}" if size else "unlimited"


@needs("server")
def _store(data: Path | None) -> Tenants:
    from shared.accounts.tenants import Tenants

    settings = options.settings_from(data=data)
    database = options.open_database(settings)
    database.check_migrated()
    return Tenants(database, settings)
