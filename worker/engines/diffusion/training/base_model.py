"""The model that a training of ``train-diffusion`` goes on from, itself a work of that trainer.

Its parts are made as for a training from nothing and then filled, each with all of its weights and no others:
what does not fit was not made here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema_rs import Draft202012Validator
from safetensors.torch import load_file

from shared.catalog import tasks
from shared.catalog.entries.family import BASE_MODEL
from shared.catalog.families.diffusion.base_models import fault, unlike
from shared.errors import InvalidInput
from worker.engines.diffusion.training import networks as nets
from worker.engines.diffusion.training.networks import Net

#: in a configuration, what tells who saved the part and how, and nothing of the part
_OF_THE_FILE = {"architectures", "dtype", "transformers_version"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A model's parts, in float32 on the CPU."""

    #: those inputs of a training that the parts settle: ``size``, ``channels`` …
    inputs: Mapping[str, Any]
    vae: Net
    tokens: Net
    unet: Net
    text: Net
    scheduler: Net


def open_base(name: str, folder: Path) -> Base:
    """Raises InvalidInput for a folder that the trainer did not write, or that is damaged."""
    with _readable(name, folder):
        return _opened(name, folder)


def settled_inputs(name: str, folder: Path) -> Mapping[str, Any]:
    """Those inputs of a training that the model's parts settle. Raises InvalidInput as ``open_base`` does."""
    with _readable(name, folder):
        return _inputs(name, folder)


@contextmanager
def _readable(name: str, folder: Path) -> Iterator[None]:
    if found := unlike(name, folder):
        raise InvalidInput.at(BASE_MODEL, found)
    try:
        yield
    except InvalidInput:
        raise
    except Exception as error:  # whatever a foreign file makes a library raise
        raise _refused(name, f"cannot be read ({type(error).__name__})") from error


def _opened(name: str, folder: Path) -> Base:
    inputs = _inputs(name, folder)
    scheduler = nets.saved_scheduler(folder / "scheduler")
    if (predicted := scheduler.config.prediction_type) != "v_prediction":
        raise _refused(name, f"predicts {predicted}, where train-diffusion trains v_prediction")
    tokens = nets.saved_tokenizer(folder / "tokenizer")
    return Base(
        inputs=inputs,
        vae=_filled(name, nets.autoencoder(inputs), folder / "vae"),
        tokens=tokens,
        unet=_filled(name, nets.denoiser(inputs), folder / "unet"),
        text=_filled(name, nets.text_encoder(inputs, tokens), folder / "text_encoder"),
        scheduler=scheduler,
    )


def _inputs(name: str, folder: Path) -> dict[str, Any]:
    vae, unet, text = (_config(folder / part) for part in ("vae", "unet", "text_encoder"))
    inputs = {
        "size": unet["sample_size"] * nets.DOWNSCALE,
        "channels": unet["block_out_channels"],
        "latent_channels": unet["in_channels"],
        "text_channels": unet["cross_attention_dim"],
        "text_layers": text["num_hidden_layers"],
        "tokens": text["max_position_embeddings"],
        "autoencoder_channels": vae["encoder_block_out_channels"][0],
    }
    limits = {"properties": tasks.load("train-diffusion")["properties"]}
    if not Draft202012Validator(limits).is_valid(inputs):
        raise _refused(name, "is of a size that train-diffusion does not make")
    return inputs


def _config(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text("utf-8"))


def _filled(name: str, net: Net, folder: Path) -> Net:
    """The net with the weights of the part in the folder."""
    own = net.config if isinstance(net.config, Mapping) else net.config.to_dict()
    made, found = json.loads(json.dumps(own)), _config(folder)
    for key in sorted(made.keys() & found.keys() - _OF_THE_FILE):
        if not key.startswith("_") and made[key] != found[key]:
            raise _refused(name, f"has another {key} in its {folder.name} than train-diffusion gives it")
    [weights] = folder.glob("*.safetensors")
    net.load_state_dict(load_file(weights))
    return net


def _refused(name: str, reason: str) -> InvalidInput:
    return InvalidInput.at(BASE_MODEL, fault(name, reason))
