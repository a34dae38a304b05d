"""``python -m tests.drills``: a drill of any length. Exit status 1 when anything was lost."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.drills.drill import drill

DIALECTS = ("sqlite", "postgresql")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--jobs", type=int, default=1000, help="jobs to submit")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long things break")
    parser.add_argument(
        "--database", choices=DIALECTS, action="append", help="once or twice; both by default"
    )
    options = parser.parse_args()
    bad = False
    for dialect in options.database or DIALECTS:
        folder = Path(tempfile.mkdtemp(prefix=f"qanvas-drill-{dialect}-"))
        report = drill(folder, dialect, seed=options.seed, jobs=options.jobs, seconds=options.seconds)
        sys.stdout.write(f"{report}\n")
        sys.stdout.flush()
        bad = bad or bool(report.found)
        if report.found:
            sys.stdout.write(f"logs: {folder / 'processes'}\n")
        else:
            shutil.rmtree(folder)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
