"""Kills what the supervisor started when the supervisor itself is killed.

Runs as a program of its own, with the supervisor's pipe as its standard input: lines ``+GROUP`` and
``-GROUP`` name process groups, ``done`` is a good end, and the pipe's end without it means that the
supervisor is dead.
The kernel's own signal (``children.die_with_parent``) exists on Linux alone and does not reach what a child
started in turn.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def guard() -> None:
    # a terminal's Ctrl-C and a service manager's SIGTERM are for the supervisor to handle
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        if line == "done\n":
            return
        if line[0] == "+":
            groups.add(int(line[1:]))
        else:
            groups.discard(int(line[1:]))
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    guard()
