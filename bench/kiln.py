"""What sharing steps brings: ``python -m bench.kiln`` writes bench/results/kiln*.md, in about twenty minutes.

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
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.kiln_lone import Lone, lone
from bench.kiln_models import Subject, subjects
from bench.kiln_report import aims, aims_table, full_table, line, lone_table, plots, tables
from bench.kiln_rounds import Measured, capacity, compare, systems
from bench.kiln_service import Service
from bench.kiln_service import compare as compare_full
from bench.report import IMAGES, link, machine, on_device, write_result
from worker.engines.contract.engine import Device
from worker.kiln.devices import describe, find_device

#: times as many rounds where an aim is set, and times as long
_MORE, _LONGER = 2, 1.5
MODELS = ("step-bound", "starter-image", "compute-bound")
PARTS = ("load", "alone", "full")
#: pairs of requests that are alone, and rounds of a full queue
_PAIRS, _ROUNDS = 44, 6


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kiln", description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one round, for calls one by one")
    parser.add_argument("--rounds", type=int, default=2, help="of each measurement, forth and back")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part of it")
    parser.add_argument("--model", choices=MODELS, action="append", help="this one; writes nothing")
    parser.add_argument("--quick", action="store_true", help="a short look at load 3; writes nothing")
    options = parser.parse_args(given)
    if options.quick:
        options.seconds, options.rounds = 0.5, 1
    device, parts, models = find_device(options.device), options.only or PARTS, options.model or MODELS
    began, said = time.monotonic(), f"{machine()} The device is {describe(device)}."
    chosen = [subject for subject in subjects(device) if subject.key in models]
    measured = (
        [each for subject in chosen for each in _loads(subject, device, options)] if "load" in parts else []
    )
    alone: list[Lone] = []
    full: list[Service] = []
    for subject in chosen:
        if "alone" in parts:
            alone.append(lone(subject, device, 4 if options.quick else _PAIRS))
            print(lone_table(alone[-1:]), flush=True)
        if "full" in parts:
            rounds, turn = (1, 3.0) if options.quick else (_ROUNDS, 15.0)
            full.append(compare_full(subject, device, rounds, turn))
            print(full_table(full[-1:]), flush=True)
    took = f"The run took {(time.monotonic() - began) / 60:.1f} minutes."
    part, writes = on_device("kiln", device), not (options.model or options.quick)
    pages = {
        f"{part}-alone": [aims_table(aims([], alone, [])), lone_table(alone)] if alone else [],
        f"{part}-full": [aims_table(aims([], [], full)), full_table(full)] if full else [],
        part: [aims_table(aims(measured, [], [])), tables(measured)] if measured else [],
    }
    with tempfile.TemporaryDirectory() as folder:
        drawn = plots(measured, part, IMAGES if writes else Path(folder))
        pages[part] += [f"![{path.stem}: throughput and times by load]({link(path)})" for path in drawn]
    for name, page in pages.items():
        if page:
            text = "\n\n".join([f"{said} {took}", *page])
            print(text)
            if writes:
                write_result(name, text)


def _loads(subject: Subject, device: Device, options: argparse.Namespace) -> Iterator[Measured]:
    """Equal and mixed steps under each load."""
    with systems(subject, device) as made:
        for kind, steps in (("equal", subject.equal), ("mixed", subject.mixed)):
            rate = capacity(made[0], steps)
            for load in subject.loads[-1:] if options.quick else subject.loads:
                seconds, rounds = options.seconds, options.rounds
                if load in subject.decisive:
                    seconds, rounds = _LONGER * seconds, _MORE * rounds
                found = compare(subject, kind, load, rate, made, seconds=seconds, rounds=rounds)
                print(subject.key, *line(found), sep=" | ", flush=True)
                yield found


if __name__ == "__main__":
    main()
