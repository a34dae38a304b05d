"""What sharing steps brings: ``python -m bench.kiln`` fills in docs/performance.md, in about twenty minutes.

Requests arrive at random (Poisson) at 0.7, 1.5 and 3 times what calls one after the other can serve, all of
equal steps or of mixed ones, for a step-bound model, for starter-image and for a compute-bound model (for
that one also at 0.85). Three systems serve the same requests at the same times: the pipeline called once for
each, static batches of up to eight that arrive within 50 ms, and the kiln. Then one request alone, and at
last the whole service with starter-image and a full queue, beside the engine alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.kiln_lone import Lone, lone
from bench.kiln_models import subjects
from bench.kiln_report import aims, aims_table, line, plots, tables
from bench.kiln_rounds import Measured, capacity, compare, systems
from bench.kiln_service import STEPS, Rate, Service
from bench.kiln_service import compare as compare_service
from bench.kiln_systems import SLOTS
from bench.report import IMAGES, fill_in, machine, on_device
from worker.kiln.devices import describe, find_device

#: times as many rounds where an aim is set, and times as long
_MORE, _LONGER = 2, 1.5
PARTS = ("step-bound", "starter-image", "compute-bound", "service")


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kiln", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one round, for calls one by one")
    parser.add_argument("--rounds", type=int, default=2, help="of each measurement, forth and back")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part of it; writes nothing")
    parser.add_argument("--quick", action="store_true", help="a short look at load 3; writes nothing")
    options = parser.parse_args(given)
    if options.quick:
        options.seconds, options.rounds = 0.5, 1
    device, parts = find_device(options.device), options.only or PARTS
    began, said = time.monotonic(), f"{machine()} The device is {describe(device)}."
    measured: list[Measured] = []
    alone: Lone | None = None
    for subject in subjects(device):
        if subject.key not in parts:
            continue
        with systems(subject, device) as made:
            for kind, steps in (("equal", subject.equal), ("mixed", subject.mixed)):
                rate = capacity(made[0], steps)
                for load in subject.loads[-1:] if options.quick else subject.loads:
                    seconds, rounds = options.seconds, options.rounds
                    if load in subject.decisive:
                        seconds, rounds = _LONGER * seconds, _MORE * rounds
                    measured.append(compare(subject, kind, load, rate, made, seconds=seconds, rounds=rounds))
                    print(subject.key, *line(measured[-1]), sep=" | ", flush=True)
        if subject.key == "step-bound":
            alone = lone(subject, options.device, 20, 2 if options.quick else 24)
    service = None
    if "service" in parts:
        count, rounds = (3 * SLOTS, 1) if options.quick else (8 * SLOTS, 10)
        service = compare_service(device, count, rounds)
    took = f"The run took {(time.monotonic() - began) / 60:.1f} minutes."
    whole = options.only is None and not options.quick
    part = on_device("kiln", device)
    page = _page(f"{said} {took}", measured, alone, service)
    print(page)
    with tempfile.TemporaryDirectory() as folder:
        drawn = plots(measured, part, IMAGES if whole else Path(folder))
    if whole:
        shown = [f"![{path.stem}: throughput and times by load](images/{path.name})" for path in drawn]
        fill_in(part, "\n\n".join([page, *shown]))


def _page(said: str, measured: Sequence[Measured], alone: Lone | None, service: Service | None) -> str:
    """Markdown."""
    parts = [said, aims_table(aims(measured, alone, service)), tables(measured)]
    if alone is not None:
        parts.append(
            f"One request alone (step-bound, 20 steps) takes {1000 * alone.plain:.1f} ms as a call of the "
            f"pipeline and {1000 * alone.kiln:.1f} ms in the kiln; ratio {alone.ratio:.3f}."
        )
    if service is not None:
        parts.append(
            f"The whole service draws {_rate(service.service)} (starter-image, {STEPS} steps, full queue, "
            f"CPU of all processes), the engine alone {_rate(service.engine)}; ratio of the rates "
            f"{service.ratio:.3f}, of the CPU {service.cpu_ratio:.3f}."
        )
    return "\n\n".join(parts)


def _rate(rate: Rate) -> str:
    return f"{rate.pictures:.1f} pictures/s with {1000 * rate.cpu:.0f} ms of CPU for each"


if __name__ == "__main__":
    main()
