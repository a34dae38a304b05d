"""``python -m tests.drills``: a drill of any length. Exit status 1 when anything was lost."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from bench.report import machine
from tests.drills.drill import drill
from tests.drills.report import write

DIALECTS = ("sqlite", "postgresql")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--jobs", type=int, default=1000, help="jobs to submit")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long things break")
    parser.add_argument(
        "--database", choices=DIALECTS, action="append", help="once or twice; both by default"
    )
    parser.add_argument("--write", action="store_true", help="write the counts to bench/results/our-drill.md")
    options = parser.parse_args()
    said, reports = machine(), []
    for dialect in options.database or DIALECTS:
        folder = Path(tempfile.mkdtemp(prefix=f"qanvas-drill-{dialect}-"))
        report = drill(folder, dialect, seed=options.seed, jobs=options.jobs, seconds=options.seconds)
        sys.stdout.write(f"{report}\n")
        sys.stdout.flush()
        reports.append(report)
        if report.found:
            sys.stdout.write(f"logs: {folder / 'processes'}\n")
        else:
            shutil.rmtree(folder)
    if options.write:
        write(reports, said)
    return int(any(report.found or report.odd for report in reports))


if __name__ == "__main__":
    sys.exit(main())
