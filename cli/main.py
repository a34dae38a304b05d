"""``qanvas``: the command line.

Exit status: 0 done · 1 refused or not possible, the message says why · 2 wrong usage · 3 the job did not
succeed · 130 interrupted.
"""

from __future__ import annotations

import sys

import click

from cli import streams
from cli.commands import client, dead, demo, keys, services, tenants, train, up
from cli.signals import Stopped
from qanvas import errors as answers
from shared.errors import QanvasError

UNSUCCESSFUL, INTERRUPTED = 3, 130

_START = "; start one with `qanvas up`, or name it with --url"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="qanvas")
def qanvas() -> None:
    """An asynchronous job queue for generative models."""


for command in (
    up.up,
    demo.demo,
    client.submit,
    client.jobs,
    client.models,
    dead.dead,
    train.train,
    keys.keys,
    tenants.tenants,
    services.api,
    services.worker,
    services.migrate,
):
    qanvas.add_command(command)


def main() -> None:
    """Run a command and exit; what goes wrong on purpose is one message, not a traceback."""
    streams.open_missing()
    try:
        sys.exit(qanvas.main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt, Stopped):
        sys.exit(INTERRUPTED)
    except QanvasError as error:
        click.echo(f"qanvas: {error}", err=True)
        sys.exit(1)
    except answers.QanvasError as error:
        cure = "" if not isinstance(error, answers.NoAnswer) or error.connected else _START
        click.echo(f"qanvas: {error}{cure}", err=True)
        sys.exit(UNSUCCESSFUL if isinstance(error, answers.JobFailed) else 1)


if __name__ == "__main__":
    main()
