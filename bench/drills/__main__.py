"""``python -m bench.drills`` writes bench/results/drills.md: what each system makes of killed workers."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bench.drills import report
from bench.drills.drill import Outcome, Plan, run
from bench.drills.rivals import RIVALS
from bench.drills.systems import QanvasSystem, RivalSystem, System
from bench.report import machine
from tests.servers import Valkey

SYSTEMS: dict[str, Callable[[str, Path], System]] = {
    QanvasSystem.name: QanvasSystem,
    **{name: partial(RivalSystem, rival) for name, rival in RIVALS.items()},
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.drills", description=__doc__)
    parser.add_argument("--only", choices=SYSTEMS, action="append", help="drill these; writes nothing")
    parser.add_argument("--quick", action="store_true", help="two kills each; writes nothing")
    options = parser.parse_args()
    plan = Plan(jobs=12, kills=2) if options.quick else Plan()
    said = machine()
    found: dict[str, Outcome] = {}
    systems: list[System] = []
    with tempfile.TemporaryDirectory(prefix="qanvas-drills-") as scratch:
        folder = Path(scratch)
        valkey = Valkey(folder).start()
        try:
            for name in options.only or SYSTEMS:
                valkey.flush()
                system = SYSTEMS[name](valkey.url, folder / name)
                systems.append(system)
                found[name] = run(system, plan)
                print(name, asdict(found[name]), flush=True)
        finally:
            valkey.stop()
    text = report.text(systems, found, plan, said)
    print(text)
    if not options.quick and not options.only:
        report.write(text)


if __name__ == "__main__":
    main()
