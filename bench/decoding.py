"""What it costs to decode a picture in the sandbox instead of in the worker, in pairs.

    python -m bench.decoding [--pairs 300] [--edge 1024] [--at-once 1]

Each pair decodes the same file once here and once in the sandbox, in changing order, until the pixels are
there: what else the machine does meets both. Times are wall clock, of an ordinary photograph as JPEG and as
PNG. What is added at the 99th percentile is the sandbox's less that of decoding here.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image

from worker.inputs.pictures import open_picture
from worker.inputs.reading import JobReader
from worker.media.limits import PICTURE
from worker.media.pictures import decode
from worker.media.sandbox import Sandbox

#: milliseconds that the sandbox may add at the 99th percentile
AIM = 10.0


def photographs(folder: Path, edge: int) -> Iterator[Path]:
    """Soft shapes with some noise, which compress about as a photograph does."""
    draw = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8))
    soft = np.asarray(coarse.resize((edge, edge), PIL.Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(soft + draw.normal(0, 4, soft.shape), 0, 255).astype(np.uint8)
    for suffix in ("jpg", "png"):
        path = folder / f"photograph.{suffix}"
        PIL.Image.fromarray(noisy).save(path)
        yield path


def here(path: Path) -> PIL.Image.Image:
    """As the worker would decode it by itself."""
    with path.open("rb") as file:
        return decode(file)


def milliseconds(decoded: Callable[[], PIL.Image.Image]) -> float:
    began = time.perf_counter()
    decoded()
    return 1000 * (time.perf_counter() - began)


def pairs(path: Path, sandbox: Sandbox, folder: Path, count: int) -> list[tuple[float, float]]:
    """Times here and in the sandbox, one after the other."""
    reader = JobReader(sandbox, folder)
    found = []
    for number in range(count):
        ways = {"here": lambda: here(path), "sandbox": lambda: open_picture(reader, path, "image")}
        order = ("here", "sandbox") if number % 2 == 0 else ("sandbox", "here")
        took = {name: milliseconds(ways[name]) for name in order}
        found.append((took["here"], took["sandbox"]))
    return found


def row(name: str, found: list[tuple[float, float]]) -> list[str]:
    """Medians and 99th percentiles of both, and what the sandbox adds."""
    quantiles = [statistics.quantiles(side, n=100) for side in zip(*found, strict=True)]
    (here50, here99), (there50, there99) = ((each[49], each[98]) for each in quantiles)
    met = "yes" if there99 - here99 < AIM else "no"
    figures = (here50, there50, there50 - here50, here99, there99, there99 - here99)
    return [name, *(f"{figure:.1f}" for figure in figures), f"< {AIM:g}: {met}", str(len(found))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300, help="for each file")
    parser.add_argument("--edge", type=int, default=1024, help="pixels of the photograph's edge")
    parser.add_argument("--at-once", type=int, default=1, help="jobs that decode at the same time")
    given = parser.parse_args()
    heads = ("here p50 ms", "sandbox", "added", "here p99 ms", "sandbox", "added", "aim", "pairs")
    print("file", *heads, sep=" | ")
    with tempfile.TemporaryDirectory() as name:
        folder, sandbox = Path(name), Sandbox()
        sandbox.open(PICTURE)
        try:
            for path in photographs(folder, given.edge):
                pairs(path, sandbox, folder, 20)  # libraries are loaded and caches warm
                share = -(-given.pairs // given.at_once)
                with ThreadPoolExecutor(given.at_once) as pool:
                    runs = [
                        pool.submit(pairs, path, sandbox, folder / str(number), share)
                        for number in range(given.at_once)
                    ]
                found = [pair for run in runs for pair in run.result()]
                print(
                    *row(f"{path.suffix[1:]}, {path.stat().st_size >> 10} KiB", found), sep=" | ", flush=True
                )
        finally:
            sandbox.close()


if __name__ == "__main__":
    main()
