"""What may share a call, by the name of the module's class: one row says how each argument is joined.

An argument that no row names must be equal in all calls and hold no tensor; so what a new version of a
library adds is computed apart until somebody declares it. ``docs/kiln.md`` shows how to add a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from worker.engines.batching.collate import EachRow, Ignored, Kind, Listed, Plain, Shared, Stacked

STACKED, EACH, SHARED, IGNORED, PLAIN = Stacked(), EachRow(), Shared(), Ignored(), Plain()
LISTED, RAGGED = Listed(), Listed(ragged=True)


@dataclass(frozen=True, slots=True)
class Declared:
    """How calls of one method are put together."""

    #: the argument that tells how many rows a call has: by its first dimension, or the list's length
    rows: str
    kinds: Mapping[str, Kind]
    method: str = "forward"
    #: called at every step, other than what encodes the prompt or decodes the picture
    looped: bool = True
    #: the answer holds a list with an entry for each row, instead of lists of stacked tensors
    answers_list: bool = False

    def kind(self, argument: str) -> Kind:
        return self.kinds.get(argument, PLAIN)


def _denoiser(rows: str = "hidden_states", *, answers_list: bool = False, **kinds: Kind) -> Declared:
    """What nearly all take, and what one class takes besides."""
    common: dict[str, Kind] = {
        rows: STACKED,
        "timestep": EACH,
        "encoder_hidden_states": STACKED,
        "attention_mask": STACKED,
        "encoder_attention_mask": STACKED,
        "guidance": EACH,
    }
    return Declared(rows, MappingProxyType(common | kinds), answers_list=answers_list)


_UNET = _denoiser(
    "sample",
    class_labels=EACH,
    timestep_cond=STACKED,
    added_cond_kwargs=STACKED,
    down_block_additional_residuals=STACKED,
    mid_block_additional_residual=STACKED,
    down_intrablock_additional_residuals=STACKED,
    encoder_hidden_states_1=STACKED,
    encoder_attention_mask_1=STACKED,
)
_CONTROLNET = _denoiser(
    "sample", controlnet_cond=STACKED, class_labels=EACH, timestep_cond=STACKED, added_cond_kwargs=STACKED
)
_JOINT = _denoiser(
    pooled_projections=STACKED,
    img_ids=SHARED,
    txt_ids=SHARED,
    block_controlnet_hidden_states=STACKED,
    controlnet_block_samples=STACKED,
    controlnet_single_block_samples=STACKED,
)

#: classes that are called at every step
DENOISERS: Mapping[str, Declared] = MappingProxyType(
    {
        "UNet2DConditionModel": _UNET,
        "UNet2DModel": _UNET,
        "AudioLDM2UNet2DConditionModel": _UNET,
        "ControlNetModel": _CONTROLNET,
        "SD3Transformer2DModel": _JOINT,
        "FluxTransformer2DModel": _JOINT,
        "PixArtTransformer2DModel": _denoiser(added_cond_kwargs=STACKED),
        "SanaTransformer2DModel": _denoiser(),
        "QwenImageTransformer2DModel": _denoiser(encoder_hidden_states_mask=STACKED, img_shapes=LISTED),
        "ZImageTransformer2DModel": _denoiser("x", x=LISTED, t=EACH, cap_feats=RAGGED, answers_list=True),
        "WanTransformer3DModel": _denoiser(encoder_hidden_states_image=STACKED),
        "StableAudioDiTModel": _denoiser(global_hidden_states=STACKED, rotary_embedding=SHARED),
    }
)

_TEXT = Declared(
    "input_ids", MappingProxyType({"input_ids": STACKED, "attention_mask": STACKED}), looped=False
)


def _decoder(rows: str) -> Declared:
    return Declared(
        rows, MappingProxyType({rows: STACKED, "generator": IGNORED}), method="decode", looped=False
    )


#: classes that are called once or twice in a job
ENCODERS: Mapping[str, Declared] = MappingProxyType(
    {
        "CLIPTextModel": _TEXT,
        "CLIPTextModelWithProjection": _TEXT,
        "T5EncoderModel": _TEXT,
        "UMT5EncoderModel": _TEXT,
        "AutoencoderKL": _decoder("z"),
        "AutoencoderKLQwenImage": _decoder("z"),
        "AutoencoderKLWan": _decoder("z"),
        "AutoencoderOobleck": _decoder("z"),
        "AutoencoderTiny": _decoder("x"),
    }
)
