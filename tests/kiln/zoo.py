"""Small pipelines with random weights of the classes that share calls, and four calls of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers as library
import torch
from torch import Tensor

from tests.engines import pipelines

#: steps and guidance of the four jobs
STEPS, GUIDANCE = (2, 4, 3, 5), (3.0, 5.0, 4.0, 6.0)
Call = Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class Species:
    """``call(i)``: the arguments of job i, without its generator.

    ``together``, ``alone``: the denoisers' forwards when the four run together, and each alone."""

    build: Callable[[Path], Any]
    call: Call
    together: int
    alone: int
    denoisers: tuple[str, ...] = ("unet",)
    scheduler: Any = None


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompted(**more: Any) -> Call:
    def call(index: int) -> dict[str, Any]:
        given = {"prompt": f"picture {index}", "height": 16, "width": 16, **more}
        return {"num_inference_steps": STEPS[index], "guidance_scale": GUIDANCE[index], **given}

    return call


def guided_or_not(index: int) -> dict[str, Any]:
    return {**prompted()(index), "guidance_scale": (1.0, 5.0)[index % 2]}


def from_picture(index: int) -> dict[str, Any]:
    given = prompted(image=noise(index, 1, 3, 16, 16).clamp(-1, 1), strength=1.0)(index)
    del given["height"], given["width"]
    return given


def painted_over(index: int) -> dict[str, Any]:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, index:] = 1.0
    return prompted(image=noise(index, 1, 3, 16, 16).clamp(-1, 1), mask_image=mask, strength=1.0)(index)


def controlled(index: int) -> dict[str, Any]:
    return prompted(image=noise(index, 1, 3, 16, 16).clamp(0, 1))(index)


def embedded(length: int, width: int, **more: Any) -> Call:
    """Prompts as embeddings, for pipelines whose text encoder is large."""

    def call(index: int) -> dict[str, Any]:
        given = prompted(
            prompt_embeds=noise(index, 1, length, width),
            negative_prompt_embeds=noise(9 + index, 1, length, width),
            **more,
        )(index)
        return {**given, "prompt": None}

    return call


def qwen_call(index: int) -> dict[str, Any]:
    mask = torch.ones(1, 12, dtype=torch.long)
    given = embedded(12, 16, prompt_embeds_mask=mask, negative_prompt_embeds_mask=mask)(index)
    return {**given, "true_cfg_scale": given.pop("guidance_scale")}


def z_image_call(index: int) -> dict[str, Any]:
    given = embedded(1, 1)(index)
    given["prompt_embeds"] = [noise(index, (12, 20, 7, 12)[index], 16)]
    given["negative_prompt_embeds"] = [noise(9 + index, 8, 16)]
    return given


def audio_call(index: int) -> dict[str, Any]:
    return {
        "prompt": f"sound {index}",
        "num_inference_steps": STEPS[index],
        "guidance_scale": GUIDANCE[index],
        "audio_end_in_s": 0.75,
    }


def video_call(index: int) -> dict[str, Any]:
    return embedded(16, 32, num_frames=5)(index)


def image_to_image(folder: Path) -> Any:
    parts = pipelines.stable_diffusion(folder).components
    return library.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)


def inpainting(folder: Path) -> Any:
    parts = pipelines.stable_diffusion(folder).components
    return library.StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)


def controlnet(folder: Path) -> Any:
    parts = pipelines.stable_diffusion(folder).components
    net = library.ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(16, 32))
    for parameter in net.parameters():  # its last layers are zero at first, and would do nothing
        parameter.data += 0.02 * torch.randn_like(parameter)
    return library.StableDiffusionControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)


def qwen(folder: Path) -> Any:
    transformer = library.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    vae = library.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    scheduler = library.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return library.QwenImagePipeline(scheduler, vae, None, None, transformer)


def z_image(folder: Path) -> Any:
    transformer = library.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):  # left uninitialised
        token.data.fill_(1.0)
    vae = pipelines.vae(scaling_factor=0.36, shift_factor=0.12)
    return library.ZImagePipeline(library.FlowMatchEulerDiscreteScheduler(), vae, None, None, transformer)


def wan(folder: Path) -> Any:
    transformer = library.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    vae = library.AutoencoderKLWan(
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    scheduler = library.UniPCMultistepScheduler(
        flow_shift=3.0, prediction_type="flow_prediction", use_flow_sigmas=True
    )
    return library.WanPipeline(None, None, vae, scheduler, transformer)


def stable_audio(folder: Path) -> Any:
    transformer = library.StableAudioDiTModel(
        sample_size=4,
        in_channels=3,
        num_layers=1,
        attention_head_dim=8,
        num_key_value_attention_heads=1,
        num_attention_heads=2,
        out_channels=3,
        cross_attention_dim=8,
        time_proj_dim=8,
        global_states_input_dim=16,
        cross_attention_input_dim=8,
    )
    vae = library.AutoencoderOobleck(
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=3,
        decoder_input_channels=3,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )
    from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel

    projection = StableAudioProjectionModel(
        text_encoder_dim=32, conditioning_dim=8, min_value=0, max_value=32
    )
    return library.StableAudioPipeline(
        vae=vae,
        text_encoder=pipelines.t5(),
        projection_model=projection,
        tokenizer=pipelines.tokenizer(folder),
        transformer=transformer,
        scheduler=library.EDMDPMSolverMultistepScheduler(),
    )


_SD = pipelines.stable_diffusion
_DIT = ("transformer",)
_AS_IT_IS = {"use_resolution_binning": False, "clean_caption": False}

ZOO: dict[str, Species] = {
    "sd-ddim": Species(_SD, prompted(), 5, 14),
    "sd-dpm++": Species(_SD, prompted(), 5, 14, scheduler=library.DPMSolverMultistepScheduler),
    "sd-euler-a": Species(_SD, prompted(), 5, 14, scheduler=library.EulerAncestralDiscreteScheduler),
    "sd-heun": Species(_SD, prompted(), 9, 24, scheduler=library.HeunDiscreteScheduler),
    "sd-guided-or-not": Species(_SD, guided_or_not, 5, 14),
    "image-to-image": Species(image_to_image, from_picture, 5, 14),
    "inpainting": Species(inpainting, painted_over, 5, 14),
    "controlnet": Species(controlnet, controlled, 10, 28, ("unet", "controlnet")),
    "sdxl": Species(pipelines.stable_diffusion_xl, prompted(), 5, 14),
    "sd3": Species(pipelines.stable_diffusion_3, prompted(), 5, 14, _DIT),
    "flux": Species(pipelines.flux, prompted(), 5, 14, _DIT),
    "pixart": Species(
        pipelines.pixart, prompted(use_resolution_binning=False, clean_caption=False), 5, 14, _DIT
    ),
    "qwen-image": Species(qwen, qwen_call, 10, 28, _DIT),
    "z-image": Species(z_image, z_image_call, 5, 14, _DIT),
    "wan": Species(wan, video_call, 10, 28, _DIT),
    "stable-audio": Species(stable_audio, audio_call, 5, 14, _DIT),
}
