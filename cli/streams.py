"""Standard streams that may be closed, full, or read by nobody: what is printed there ends no program."""

from __future__ import annotations

import os
import sys

import click

_NAMES = ("stdin", "stdout", "stderr")


def open_missing() -> None:
    """Open those that this process was started without (``qanvas up >&-``) on the null device.

    Else the next file that is opened gets their number, and what a library prints goes into it."""
    for number, name in enumerate(_NAMES):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115, PTH123 - for good


def say(text: str, *, err: bool = False) -> None:
    """Print a line. Where that fails (``| head -1``, a full disk), nothing more is printed there."""
    try:
        click.echo(text, err=err)
    except OSError:
        stream = sys.stderr if err else sys.stdout
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # what its buffer still holds would fail again when Python ends
        os.close(null)
