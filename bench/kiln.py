"""What sharing steps brings: ``python -m bench.kiln`` fills in docs/performance.md.

Requests arrive at random (Poisson) at 0.7, 1.5 and 3 times what calls one after the other can serve, all of
equal steps or of mixed ones, for a step-bound model, for starter-image and for a compute-bound model. Three
systems serve the same requests in turn: the pipeline called once for each, static batches of up to eight that
arrive within 50 ms, and the kiln. At last the whole service draws with starter-image as fast as it can,
beside the engine alone.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from bench import kiln_service
from bench.kiln_systems import InKiln, Request, Sequential, Static, System
from bench.report import fill_in, machine, ratio, table
from tests.engines import pipelines

#: what stands between these lines of the page is replaced
BEGIN, END = "<!-- kiln: begin -->", "<!-- kiln: end -->"
STARTER = Path(__file__).parents[1] / "starters" / "image"
LOADS = (0.7, 1.5, 3.0)
EQUAL, MIXED = (10,), (4, 8, 12, 16)


@dataclass(frozen=True, slots=True)
class Figures:
    """Requests a second; seconds from arrival to picture; forwards of the denoiser."""

    rate: float
    mean: float
    p99: float
    forwards: int


def unet(channels: tuple[int, ...], latents: int) -> Any:
    """A pipeline whose denoiser has these channels, with random weights."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        pipe = pipelines.stable_diffusion(Path(folder))
    attend = len(channels) - 1
    pipe.register_modules(
        unet=UNet2DConditionModel(
            sample_size=latents,
            layers_per_block=1,
            block_out_channels=channels,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * attend),
            up_block_types=(*["CrossAttnUpBlock2D"] * attend, "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=8,
            norm_num_groups=16,
        ).eval()
    )
    return pipe


def starter() -> Any:
    load: Any = StableDiffusionPipeline.from_pretrained
    return load(STARTER, local_files_only=True)


MODELS: dict[str, Callable[[], Any]] = {
    "step-bound, 1 M parameters at 8²": lambda: unet((32, 64), 8),
    "starter-image": starter,
    "compute-bound, 16 M parameters at 32²": lambda: unet((128, 256), 32),
}


def serve(system: System, requests: Sequence[Request], gaps: Sequence[float]) -> Figures:
    """Let them arrive with these seconds between them, and wait until all are served."""
    began = due = time.perf_counter()
    for request, gap in zip(requests, gaps, strict=True):
        due += gap
        time.sleep(max(0.0, due - time.perf_counter()))
        request.due = due
        system.submit(request)
    system.finish()
    times = sorted(request.done - request.due for request in requests)
    took = max(request.done for request in requests) - began
    return Figures(
        len(requests) / took, statistics.fmean(times), times[int(0.99 * (len(times) - 1))], system.forwards
    )


def capacity(pipe: Any, steps: Sequence[int]) -> float:
    """Requests a second that calls one after the other can serve."""
    one = Sequential(pipe)
    requests = [Request(seed, steps[seed % len(steps)]) for seed in range(2 * len(steps) + 2)]
    figures = serve(one, requests, [0.0] * len(requests))
    return figures.rate


def compare(pipe: Any, steps: Sequence[int], load: float, count: int) -> dict[str, Figures]:
    """The three systems with the same requests at the same times."""
    rate = load * capacity(pipe, steps)
    drawn = random.Random(7)
    gaps = [drawn.expovariate(rate) for _ in range(count)]
    chosen = [drawn.choice(steps) for _ in range(count)]
    found = {}
    for kind in (Sequential, Static, InKiln):  # the kiln last: it patches the pipeline
        system = kind(pipe)
        if isinstance(system, InKiln):  # its measurements are on disk after the first start
            warm = [Request(seed, max(steps)) for seed in range(16)]
            serve(system, warm, [0.0] * len(warm))
        requests = [Request(seed, chosen[seed]) for seed in range(count)]
        found[system.name] = serve(system, requests, gaps)
        system.close()
    return found


def rows(name: str, load: float, found: dict[str, Figures]) -> list[str]:
    """A line of the table: the three systems, and the kiln against the others."""
    one, static, kiln = found["sequential"], found["static"], found["kiln"]
    return [
        name,
        f"{load:g}",
        *(f"{each.rate:.1f}" for each in (one, static, kiln)),
        *(f"{1000 * each.mean:.0f} / {1000 * each.p99:.0f}" for each in (one, static, kiln)),
        *(str(each.forwards) for each in (one, static, kiln)),
        ratio(kiln.rate, one.rate),
        ratio(kiln.rate, static.rate),
        ratio(kiln.mean, one.mean),
    ]


HEAD = [
    "model and steps",
    "load",
    "sequential, requests/s",
    "static",
    "kiln",
    "sequential, ms mean / p99",
    "static",
    "kiln",
    "sequential, forwards",
    "static",
    "kiln",
    "requests/s to sequential",
    "to static",
    "mean time to sequential",
]


def lone(pipe: Any, steps: int, count: int) -> str:
    """What the kiln adds to one request that nobody shares with."""
    plain, kiln = Sequential(pipe), InKiln(pipe)
    times: dict[str, list[float]] = {"plain": [], "kiln": []}
    for seed in range(count):
        for name, system in (("plain", plain), ("kiln", kiln)):
            request = Request(seed, steps)
            began = time.perf_counter()
            if name == "plain":
                system.draw([request])
            else:
                system.submit(request)
                system.finish()
            times[name].append(time.perf_counter() - began)
    plain.finish()
    kiln.close()
    middle = {name: statistics.median(taken) for name, taken in times.items()}
    return (
        f"One request alone takes {1000 * middle['kiln']:.1f} ms in the kiln, and as a call of the pipeline "
        f"{1000 * middle['plain']:.1f} ms; ratio {middle['kiln'] / middle['plain']:.3f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kiln", description=__doc__)
    parser.add_argument("--requests", type=int, default=120, help="in each measurement")
    parser.add_argument("--quick", action="store_true", help="a short look; writes nothing")
    options = parser.parse_args()
    count = 16 if options.quick else options.requests
    loads = LOADS[-1:] if options.quick else LOADS
    said, lines = machine(), []
    for name, make in MODELS.items():
        for kind, steps in (("equal", EQUAL), ("mixed", MIXED)):
            for load in loads:
                pipe = make()
                pipe.set_progress_bar_config(disable=True)
                found = compare(pipe, steps, load, count)
                lines.append(rows(f"{name}, {kind}", load, found))
                print(" | ".join(lines[-1]), flush=True)
    pipe = MODELS["step-bound, 1 M parameters at 8²"]()
    pipe.set_progress_bar_config(disable=True)
    alone = lone(pipe, 20, 5 if options.quick else 40)
    whole = kiln_service.compare(starter(), 16 if options.quick else 100)
    text = "\n\n".join([said, table([HEAD, *lines]), alone, whole])
    print(text)
    if not options.quick:
        fill_in(BEGIN, END, text)


if __name__ == "__main__":
    main()
