"""What previews cost: the same jobs in the same kiln with and without one a second, side by side.

    python -m bench.previews [--rounds 5] [--jobs 6] [--steps 40] [--device cpu]

``starter-image`` decodes previews with its own tiny autoencoder; ``projection`` is a small Stable Diffusion
whose autoencoder has a fitted matrix instead. Previews are encoded as PNG by the thread that reads them, as
in a worker. Rounds with and without alternate, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from shared.catalog import builtin
from shared.catalog.models import Folder, Model
from tests.engines import pipelines
from tests.kiln.studio import Quiet
from worker.encode import encode_png
from worker.engines.base import Work
from worker.engines.diffusion import DiffusionEngine
from worker.kiln.devices import find_device, memory_budget
from worker.kiln.firing import Firing, Order, Preview
from worker.kiln.kiln import Kiln

#: each job writes its checkpoints into a folder of its own
_attempts = itertools.count()
#: the least that one round may take, in seconds: in less, hardly a second preview is due
_ROUND = 3.0


@dataclass(frozen=True)
class Subject:
    model: Model
    folder: Path
    side: int


@dataclass(frozen=True)
class Round:
    jobs_per_second: float
    previews_per_second: float


def subjects(folder: Path) -> Iterator[Subject]:
    starter = next((model for model in builtin.starters() if model.id == "starter-image"), None)
    if starter is not None and (weights := builtin.starter_folder("image")) is not None:
        yield Subject(starter, weights, 64)
    saved = pipelines.save("sd", folder)
    yield Subject(
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
        64,
    )


def one_round(kiln: Kiln, subject: Subject, jobs: int, steps: int, scratch: Path, *, previews: bool) -> Round:
    """All jobs at once, each read by a thread of its own; repeated until the round is long enough."""
    engine, shown, ended = DiffusionEngine(), 0, 0

    def follow(firing: Firing) -> int:
        count = 0
        for notice in firing.notices():
            if isinstance(notice, Preview):
                encode_png(notice.image, {})
                count += 1
        if firing.outcome is None or firing.outcome.error is not None:
            raise RuntimeError(f"a job failed: {firing.outcome and firing.outcome.trace}")
        return count

    def order(number: int) -> Order:
        given = {
            "prompt": "a red apple",
            "seed": number,
            "steps": steps,
            "guidance_scale": 3.0,
            "width": subject.side,
            "height": subject.side,
            "preview_every": int(previews),
        }
        return Order(
            work=Work(job_id=f"job-{number}", task="text-to-image", input=given),
            model=subject.model,
            model_key=subject.model.id,
            folder=subject.folder,
            engine=engine,
            scratch=scratch / str(next(_attempts)),
        )

    began = time.perf_counter()
    with ThreadPoolExecutor(jobs) as readers:
        while ended == 0 or time.perf_counter() - began < _ROUND:
            firings = [kiln.submit(order(number), Quiet()) for number in range(jobs)]
            shown += sum(readers.map(follow, firings))
            ended += jobs
    seconds = time.perf_counter() - began
    return Round(ended / seconds, shown / seconds / jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of rounds")
    parser.add_argument("--jobs", type=int, default=6, help="jobs at once")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    device = find_device(given.device)
    kiln = Kiln(device, memory_budget(device, 0))
    print(f"{'model':16} {'without':>10} {'with':>10} {'ratio':>7} {'previews a second and job':>26}")
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(Path(folder)):
            scratch = Path(folder) / "scratch"
            one_round(kiln, subject, 1, given.steps, scratch, previews=True)  # loads, and fits the matrix
            pairs = [
                [
                    one_round(kiln, subject, given.jobs, given.steps, scratch, previews=on)
                    for on in (False, True)
                ]
                for _ in range(given.rounds)
            ]
            off, on = (statistics.median(pair[i].jobs_per_second for pair in pairs) for i in (0, 1))
            ratio = statistics.median(pair[1].jobs_per_second / pair[0].jobs_per_second for pair in pairs)
            rate = statistics.median(pair[1].previews_per_second for pair in pairs)
            print(f"{subject.model.id:16} {off:8.2f}/s {on:8.2f}/s {ratio:7.3f} {rate:26.2f}")
    kiln.close()


if __name__ == "__main__":
    main()
