"""A bare pipeline in a process of its own: what Qanvas is compared with.

``python bench/bare.py FOLDER DEVICE DTYPE`` loads a pipeline with the library alone and computes on one
thread. It reads a line of JSON for each call, ``{"prompts": [...], "seeds": [...], "steps": 16,
"guidance": 3.0}``, and writes the seconds that the call took. The program imports nothing of Qanvas.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Bare:
    """The program's other end."""

    def __init__(self, process: subprocess.Popen[str], guidance: float) -> None:
        self._process, self._guidance = process, guidance

    def draw(self, seeds: Sequence[int], steps: int) -> float:
        """Seconds of one call of the pipeline for so many pictures."""
        prompts = ["a red apple"] * len(seeds)
        call = {"prompts": prompts, "seeds": list(seeds), "steps": steps, "guidance": self._guidance}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@contextmanager
def bare(folder: Path, device: str, dtype: str, guidance: float) -> Iterator[Bare]:
    """A pipeline that is loaded and has drawn once."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), str(folder), device, dtype],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        found = Bare(process, guidance)
        found.draw([0], 2)
        yield found
    finally:
        process.stdin.close()  # type: ignore[union-attr]
        process.wait()


def main(folder: str, device: str, dtype: str) -> None:
    import torch
    from diffusers import DiffusionPipeline

    load: Any = DiffusionPipeline.from_pretrained
    pipe = load(folder, dtype=getattr(torch, dtype), local_files_only=True).to(device)
    pipe.set_progress_bar_config(disable=True)
    for line in sys.stdin:
        call = json.loads(line)
        began = time.perf_counter()
        pipe(
            call["prompts"],
            num_inference_steps=call["steps"],
            guidance_scale=call["guidance"],
            generator=[torch.Generator().manual_seed(seed) for seed in call["seeds"]],
        )
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
