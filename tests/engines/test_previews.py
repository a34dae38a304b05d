"""Previews: colours out of latents, cheaply, at the job's pace."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, FluxPipeline, QwenImagePipeline
from torch.nn.functional import avg_pool2d

from shared.catalog.builtin import starter_folder
from worker.engines.allowance import Allowance
from worker.engines.diffusion import previews
from worker.engines.diffusion.previews import Pace, Previewer, fit


class Pooling(torch.nn.Module):
    """An autoencoder whose latents are the colours of 8 x 8 pixels, mixed: what is best is known."""

    config: ClassVar = {"scaling_factor": 2.0, "shift_factor": 0.5}

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.mix = torch.nn.Parameter(torch.randn(4, 3))
        self.encoded = 0

    def encode(self, pictures: torch.Tensor) -> Any:
        self.encoded += 1
        return SimpleNamespace(latents=torch.einsum("bchw,rc->brhw", avg_pool2d(pictures, 8), self.mix))


def latents_of(vae: Pooling, colours: torch.Tensor) -> torch.Tensor:
    """As a pipeline has them, of colours (3, height, width) in -1 to 1."""
    return (torch.einsum("chw,rc->rhw", colours, vae.mix.detach()) - 0.5)[None] * 2.0


def test_the_projection_finds_the_colours_that_the_latents_stand_for() -> None:
    vae = Pooling()
    colours = torch.rand(3, 8, 6) * 2 - 1
    shown = Previewer(SimpleNamespace(vae=vae), None).pixels(None, latents_of(vae, colours), {})
    assert shown is not None and shown.shape == (8, 6, 3) and shown.dtype == np.uint8
    expected = ((colours + 1) * 127.5).permute(1, 2, 0).numpy()
    assert np.abs(shown - expected).max() <= 2


def test_it_is_fitted_once_and_kept_for_the_weights_it_was_fitted_for(tmp_path: Path) -> None:
    vae, other = Pooling(), Pooling(seed=1)
    latents = latents_of(vae, torch.zeros(3, 4, 4))
    for _ in range(2):  # a worker that starts anew
        assert Previewer(SimpleNamespace(vae=vae), tmp_path).pixels(None, latents, {}) is not None
    assert vae.encoded == 1 and len(list(tmp_path.iterdir())) == 1
    Previewer(SimpleNamespace(vae=other), tmp_path).pixels(None, latents, {})
    assert other.encoded == 1 and len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_broken_is_made_anew(tmp_path: Path) -> None:
    vae = Pooling()
    latents = latents_of(vae, torch.zeros(3, 4, 4))
    Previewer(SimpleNamespace(vae=vae), tmp_path).pixels(None, latents, {})
    [path] = tmp_path.iterdir()
    path.write_bytes(b"half")
    assert Previewer(SimpleNamespace(vae=vae), tmp_path).pixels(None, latents, {}) is not None
    assert vae.encoded == 2


def test_a_real_autoencoder_can_be_fitted_of_any_kind() -> None:
    kl = AutoencoderKL(block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4)
    assert fit(kl).weights.shape == (4, 3)
    folder = starter_folder("image")
    assert folder is not None
    vae: Any = AutoencoderTiny.from_pretrained(folder / "vae").float()
    channels = json.loads((folder / "vae" / "config.json").read_text())["latent_channels"]
    with torch.no_grad():
        projection = fit(vae)
        pictures = previews._pictures().flip(3)  # not quite those that it was fitted on
        shown = torch.stack([projection(each) for each in vae.encode(pictures).latents])
    assert projection.weights.shape == (channels, 3)
    wanted = torch.nn.functional.interpolate(pictures, shown.shape[-2:], mode="area")
    assert (wanted - shown).square().mean() < wanted.var() / 4


def tiny() -> Any:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    )


def test_a_tiny_autoencoder_decodes_previews_itself_made_small() -> None:
    vae = tiny()
    shown = Previewer(SimpleNamespace(vae=vae), None).pixels(None, torch.zeros(2, 4, 96, 48), {})
    assert shown is not None and shown.shape == (48, 24, 3)


def test_previews_beyond_what_they_may_cost_are_projected_at_the_same_size() -> None:
    vae = tiny()
    decoded, decode = 0, vae.decoder.forward

    def counted(latents: torch.Tensor) -> Any:
        nonlocal decoded
        decoded += 1
        time.sleep(0.2)  # more than there is to spend
        return decode(latents)

    vae.decoder.forward = counted
    previewer = Previewer(SimpleNamespace(vae=vae), None)
    shown = [previewer.pixels(None, torch.zeros(1, 4, 12, 8), {}) for _ in range(4)]
    assert [each.shape for each in shown if each is not None] == [(24, 16, 3)] * 4
    assert decoded == 1


def test_an_allowance_grows_with_the_time_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    allowance = Allowance(0.1, 1.0)
    with allowance.spend():
        now += 3.0
    left = []
    for _ in range(3):
        now += 6.0
        left.append(allowance.is_left)
    now += 1000.0
    assert left == [False, False, True] and allowance.is_left
    with allowance.spend():
        now += 2.0
    assert not allowance.is_left


@pytest.mark.parametrize("cls", [FluxPipeline, QwenImagePipeline])
def test_packed_latents_are_unpacked(cls: Any) -> None:
    vae = Pooling()
    colours = torch.rand(3, 8, 4) * 2 - 1
    flat = latents_of(vae, colours)
    packed = cls._pack_latents(flat, 1, 4, 8, 4)
    pipe = SimpleNamespace(_unpack_latents=cls._unpack_latents, vae_scale_factor=8, default_sample_size=128)
    previewer = Previewer(SimpleNamespace(vae=vae), None)
    shown = previewer.pixels(pipe, packed, {"height": 64, "width": 32})
    assert shown is not None
    assert np.array_equal(shown, previewer.pixels(pipe, flat, {}))


def test_what_cannot_be_shown_has_no_preview_and_fails_nothing() -> None:
    vae = Pooling()
    previewer = Previewer(SimpleNamespace(vae=vae), None)
    assert previewer.pixels(SimpleNamespace(), torch.zeros(1, 64, 16), {}) is None
    assert previewer.pixels(SimpleNamespace(), torch.zeros(1, 7, 4, 4), {}) is None
    assert Previewer(SimpleNamespace(), None).pixels(None, torch.zeros(1, 4, 4, 4), {}) is None
    odd = torch.nn.Linear(1, 1)
    assert Previewer(SimpleNamespace(vae=odd), None).pixels(None, torch.zeros(1, 4, 4, 4), {}) is None


def test_the_steps_and_the_clock_together_set_the_pace() -> None:
    pace = Pace({"preview_every": 2, "preview_seconds": 1.0})
    shown = [step for step in range(1, 13) if pace.due(step, 12, now=0.3 * step)]
    assert shown == [2, 6, 10]
    assert not Pace({"preview_every": 0}).due(5, 10, now=0.0)
    assert not Pace({"preview_every": 5}).due(10, 10, now=0.0)


def test_a_job_that_does_not_say_gets_one_a_second() -> None:
    pace = Pace({"preview_every": 1})
    assert [pace.due(step, 100, now=0.5 * step) for step in range(1, 5)] == [True, False, True, False]
