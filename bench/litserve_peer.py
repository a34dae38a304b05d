"""``starter-image`` behind LitServe, as its documentation tells one to write it.

``python -m bench.litserve_peer PORT FOLDER``. LitServe collects up to eight requests that arrive within
50 ms. Those of equal steps go through the pipeline in one call, with a list of prompts and a generator for
each; a call has one number of steps, so that those of other steps follow in calls of their own. Each is
answered with the bytes of its PNG.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import litserve
import torch
from diffusers import StableDiffusionPipeline
from starlette.responses import Response

#: requests that LitServe collects, and seconds for which it waits for them
MOST, WINDOW = 8, 0.05
#: what starter-image takes where a job does not say
GUIDANCE, SIZE = 3.0, 64


class Pictures(litserve.LitAPI):  # type: ignore[misc]  # LitServe has no types
    def __init__(self, folder: str) -> None:
        super().__init__(max_batch_size=MOST, batch_timeout=WINDOW)
        self._folder = folder

    def setup(self, device: str) -> None:
        loader: Any = StableDiffusionPipeline  # the library has no types
        self._pipe = loader.from_pretrained(self._folder, torch_dtype=torch.float32).to(device)
        self._pipe.set_progress_bar_config(disable=True)

    def predict(self, batch: Sequence[dict[str, Any]]) -> list[Any]:
        """A picture for each of the requests, in their order."""
        groups: dict[int, list[int]] = {}
        for place, request in enumerate(batch):
            groups.setdefault(int(request["steps"]), []).append(place)
        pictures: dict[int, Any] = {}
        for steps, places in groups.items():
            drawn = self._pipe(
                [batch[place]["prompt"] for place in places],
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                width=SIZE,
                height=SIZE,
                generator=[torch.Generator("cpu").manual_seed(batch[place]["seed"]) for place in places],
            )
            pictures |= dict(zip(places, drawn.images, strict=True))
        return [pictures[place] for place in range(len(batch))]

    def encode_response(self, picture: Any) -> Response:
        file = io.BytesIO()
        picture.save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")


def main(port: str, folder: str) -> None:
    # a picture may wait for longer than the default of 30 s: none is refused for that. A worker that dies is
    # started again, which is not the default either
    server = litserve.LitServer(Pictures(folder), accelerator="cpu", timeout=False, restart_workers=True)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
