"""What previews cost: the same jobs in the same kiln with and without one a second, by turns.

    python -m bench.previews [--seconds 90] [--jobs 6] [--steps 40] [--device cpu]

``starter-image`` decodes previews with its own tiny autoencoder; ``projection`` is a small Stable Diffusion
whose autoencoder has a fitted matrix instead. Previews are encoded as PNG by the thread that reads them, as
in a worker. Pairs of short rounds, one with and one without in changing order, fill each model's seconds:
what else the machine does meets both. Ratios are medians of the pairs; that of the CPU's seconds for each job
is the steadier one where the machine is shared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.drawing import Drawing, starter_image
from shared.catalog.entries.model import Folder, Model
from tests.engines import pipelines
from worker.kiln.devices import find_device

#: rounds take about so many seconds: long enough for a preview a second of each job
_ROUND = 2.0
#: jobs a second with previews, at least, in parts of those without
AIM = 0.97


@dataclass(frozen=True, slots=True)
class Round:
    jobs_per_second: float
    previews_per_second: float
    cpu_per_job: float


def subjects(folder: Path) -> Iterator[tuple[Model, Path]]:
    """Models and where their weights lie."""
    yield starter_image()
    saved = pipelines.save("sd", folder)
    yield (
        Model(
            id="projection",
            task="text-to-image",
            engine="diffusion",
            source=Folder(str(saved)),
            input_schema={},
            output="image/png",
            options={"cache": str(folder / "cache")},
        ),
        saved,
    )


class Measurement:
    """Rounds of one model."""

    def __init__(self, drawing: Drawing, model: Model, weights: Path, jobs: int, steps: int) -> None:
        self._drawing, self._model, self._weights = drawing, model, weights
        self._jobs = jobs
        self._given = {
            "prompt": "a red apple",
            "steps": steps,
            "guidance_scale": 3.0,
            "width": 64,
            "height": 64,
        }

    def warm(self) -> int:
        """Load, fit the matrix, learn what calls cost; returns how many times all jobs go into a round."""
        self.round(1, previews=True)
        began = time.perf_counter()
        self.round(2, previews=False)
        return max(1, round(2 * _ROUND / (time.perf_counter() - began)))

    def round(self, times: int, *, previews: bool) -> Round:
        """So many times all the jobs at once."""
        count = self._jobs * times
        inputs = [{**self._given, "seed": seed, "preview_every": int(previews)} for seed in range(count)]
        began, worked = time.perf_counter(), time.process_time()
        drawn = self._drawing.draw(self._model, self._weights, inputs)
        seconds = time.perf_counter() - began
        worked = time.process_time() - worked
        shown = sum(each.previews for each in drawn)
        return Round(count / seconds, shown / seconds / self._jobs, worked / count)

    def pairs(self, seconds: float) -> list[dict[bool, Round]]:
        """Rounds with and without, by turns."""
        times, until = self.warm(), time.perf_counter() + seconds
        pairs: list[dict[bool, Round]] = []
        while time.perf_counter() < until or not pairs:
            order = (False, True) if len(pairs) % 2 == 0 else (True, False)
            pairs.append({previews: self.round(times, previews=previews) for previews in order})
        return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0, help="for each model")
    parser.add_argument("--jobs", type=int, default=6, help="jobs at once")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    heads = ("without", "with", "ratio", "aim", "CPU, without to with", "previews a second and job", "pairs")
    print("model", *heads, sep=" | ")
    with tempfile.TemporaryDirectory() as folder, Drawing(find_device(given.device), given.jobs) as drawing:
        for model, weights in subjects(Path(folder)):
            pairs = Measurement(drawing, model, weights, given.jobs, given.steps).pairs(given.seconds)
            print(model.id, *shown(pairs), sep=" | ", flush=True)


def shown(pairs: Sequence[Mapping[bool, Round]]) -> list[str]:
    """One line of the table, medians all."""
    off, on = (statistics.median(pair[which].jobs_per_second for pair in pairs) for which in (False, True))
    ratio = statistics.median(pair[True].jobs_per_second / pair[False].jobs_per_second for pair in pairs)
    cpu = statistics.median(pair[False].cpu_per_job / pair[True].cpu_per_job for pair in pairs)
    rate = statistics.median(pair[True].previews_per_second for pair in pairs)
    met = f"≥ {AIM:g}: {'yes' if ratio >= AIM else 'no'}"
    return [f"{off:.2f}/s", f"{on:.2f}/s", f"{ratio:.3f}", met, f"{cpu:.3f}", f"{rate:.2f}", str(len(pairs))]


if __name__ == "__main__":
    main()
