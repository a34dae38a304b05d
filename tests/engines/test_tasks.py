"""One set of weights for several tasks, and what a job may add: pictures, masks, adapters, a ControlNet."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from shared.catalog.entries.model import Folder, Model
from shared.errors import JobError, ModelUnavailable
from tests.engines import additions, pipelines
from tests.engines.contexts import Recorder
from worker.engines.contract.engine import Device, Image, Progress, Work
from worker.engines.diffusion.engine import DiffusionEngine, LoadedPipeline
from worker.engines.memory import module_bytes

Pixels = NDArray[np.uint8]
SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.save("sd", tmp_path_factory.mktemp("sd"))


def load(folder: Path, **options: Any) -> LoadedPipeline:
    schema = {"properties": {"negative_prompt": {"default": ""}, "num_images": {"default": 1}}}
    model = Model(
        id="tiny",
        task="text-to-image",
        engine="diffusion",
        source=Folder(str(folder)),
        input_schema=schema,
        output="image/png",
        options=options,
    )
    return DiffusionEngine().load(model, folder, Device())


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedPipeline:
    return load(folder)


@pytest.fixture(scope="module")
def loras(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of the adapters ``ink`` and ``oil``; ``oil`` changes the text encoder too."""
    parent = tmp_path_factory.mktemp("loras")
    return {
        name: str(additions.save_lora(folder, parent / name, seed=seed, text=name == "oil"))
        for seed, name in enumerate(("ink", "oil"))
    }


def picture(colour: tuple[int, int, int] = (200, 30, 30)) -> PIL.Image.Image:
    return PIL.Image.new("RGB", (SIZE, SIZE), colour)


def left_half() -> PIL.Image.Image:
    mask = PIL.Image.new("L", (SIZE, SIZE), 0)
    mask.paste(255, (0, 0, SIZE // 2, SIZE))
    return mask


def _new_folder(below: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=below))


def run(loaded: LoadedPipeline, folder: Path, task: str = "text-to-image", **changes: Any) -> list[Image]:
    given = {
        "prompt": "a red apple",
        "seed": 3,
        "steps": 4,
        "guidance_scale": 4.0,
        "width": SIZE,
        "height": SIZE,
    }
    work = Work(job_id="job_1", task=task, input=given | changes)
    outputs = DiffusionEngine().run(loaded, work, Recorder(folder)).outputs
    return [output for output in outputs if isinstance(output, Image)]


def pixels(*args: Any, **changes: Any) -> Pixels:
    [image] = run(*args, **changes)
    return image.pixels


def difference(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def lora(paths: dict[str, str], name: str, weight: float = 1.0) -> dict[str, Any]:
    return {"name": name, "weight": weight, "path": paths[name]}


class TestTasks:
    @pytest.mark.parametrize(
        ("task", "cls", "given"),
        [
            ("image-to-image", StableDiffusionImg2ImgPipeline, {"image": picture(), "strength": 0.5}),
            (
                "inpainting",
                StableDiffusionInpaintPipeline,
                {"image": picture(), "mask_image": left_half(), "strength": 1.0},
            ),
        ],
    )
    def test_a_task_is_bit_for_bit_the_librarys_own_pipeline(
        self, task: str, cls: Any, given: dict[str, Any], loaded: LoadedPipeline, folder: Path, tmp_path: Path
    ) -> None:
        own = cls.from_pretrained(folder, safety_checker=None)
        size = {"width": SIZE, "height": SIZE} if task == "inpainting" else {}
        generator = torch.Generator().manual_seed(3)
        expected = own(
            "a red apple", num_inference_steps=4, guidance_scale=4.0, generator=generator, **given, **size
        ).images[0]
        if (
            task == "inpainting"
        ):  # what the mask keeps comes from the picture itself, not out of the autoencoder
            expected = PIL.Image.composite(expected, picture(), left_half())
        ours = {"mask" if name == "mask_image" else name: value for name, value in given.items()}
        assert np.array_equal(pixels(loaded, tmp_path, task, **ours), np.asarray(expected))

    def test_tasks_share_the_weights_and_none_is_held_twice(
        self, loaded: LoadedPipeline, tmp_path: Path
    ) -> None:
        before = DiffusionEngine().nbytes(loaded)
        run(loaded, tmp_path, "image-to-image", image=picture(), strength=0.5)
        run(loaded, tmp_path, "inpainting", image=picture(), mask=left_half(), strength=1.0)
        for task in ("image-to-image", "inpainting"):
            assert loaded.pipeline(task).unet is loaded.pipe.unet
            assert loaded.pipeline(task).vae is loaded.pipe.vae
        assert DiffusionEngine().nbytes(loaded) == before

    def test_only_the_part_of_the_steps_that_strength_says_is_taken(
        self, loaded: LoadedPipeline, tmp_path: Path
    ) -> None:
        context = Recorder(tmp_path)
        given = {"prompt": "a", "seed": 1, "steps": 10, "image": picture(), "strength": 0.3}
        DiffusionEngine().run(loaded, Work(job_id="j", task="image-to-image", input=given), context)
        assert context.progress[-1] == Progress("denoise", 3, 3)

    def test_a_strength_of_less_than_a_step_says_how_much_is_one(
        self, loaded: LoadedPipeline, tmp_path: Path
    ) -> None:
        with pytest.raises(JobError, match=r"strength: 0\.1 of 4 steps .* at least 0\.25") as caught:
            run(loaded, tmp_path, "image-to-image", image=picture(), strength=0.1)
        assert caught.value.type == "invalid-input"

    def test_several_images_of_one_picture_can_each_be_made_again(
        self, loaded: LoadedPipeline, tmp_path: Path
    ) -> None:
        given = {"image": picture(), "mask": left_half(), "strength": 1.0}
        images = run(loaded, tmp_path, "inpainting", num_images=3, **given)
        alone = pixels(loaded, tmp_path, "inpainting", seed=5, **given)
        assert difference(alone, images[2].pixels) <= 1

    def test_a_family_without_the_task_says_so(self, tmp_path: Path) -> None:
        pixart = load(pipelines.save("pixart", tmp_path))
        with pytest.raises(ModelUnavailable, match="PixArtSigmaPipeline does no inpainting"):
            run(pixart, tmp_path, "inpainting", image=picture(), mask=left_half(), strength=1.0)
        with pytest.raises(JobError, match="PixArtSigmaPipeline takes no loras"):
            run(pixart, tmp_path, width=32, height=32, loras=[{"name": "x", "path": "x.safetensors"}])

    @pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux"])
    def test_other_families_redraw_and_inpaint_too(self, kind: str, tmp_path: Path) -> None:
        pipeline = load(pipelines.save(kind, tmp_path))
        for task, given in (("image-to-image", {}), ("inpainting", {"mask": left_half()})):
            if (kind, task) == ("sd3", "inpainting"):
                continue  # the library's wants the 16 channels of latents that a real SD3 has
            images = run(pipeline, tmp_path, task, image=picture(), strength=0.6, num_images=2, **given)
            assert [image.pixels.shape for image in images] == [(SIZE, SIZE, 3)] * 2


class TestAdapters:
    def test_a_weight_changes_the_picture_and_none_of_it_does_not(
        self, loaded: LoadedPipeline, loras: dict[str, str], tmp_path: Path
    ) -> None:
        plain = pixels(loaded, tmp_path)
        half, full = (pixels(loaded, tmp_path, loras=[lora(loras, "ink", w)]) for w in (0.5, 1.0))
        assert difference(plain, full) > 0 and difference(half, full) > 0
        assert np.array_equal(plain, pixels(loaded, tmp_path, loras=[lora(loras, "ink", 0.0)]))
        assert np.array_equal(plain, pixels(loaded, tmp_path))

    def test_it_is_bit_for_bit_what_the_library_makes_with_the_same_adapters(
        self, loaded: LoadedPipeline, loras: dict[str, str], folder: Path, tmp_path: Path
    ) -> None:
        own = load(folder).pipe
        for name, path in loras.items():
            own.load_lora_weights(Path(path).parent, weight_name=Path(path).name, adapter_name=name)
        own.set_adapters(["ink", "oil"], [0.5, 0.75])
        expected = own(
            "a red apple",
            num_inference_steps=4,
            guidance_scale=4.0,
            width=SIZE,
            height=SIZE,
            generator=torch.Generator().manual_seed(3),
        ).images[0]
        ours = pixels(loaded, tmp_path, loras=[lora(loras, "oil", 0.75), lora(loras, "ink", 0.5)])
        assert np.array_equal(ours, np.asarray(expected))

    @pytest.mark.slow
    def test_jobs_that_take_turns_keep_their_own_adapters(
        self, loaded: LoadedPipeline, loras: dict[str, str], tmp_path: Path
    ) -> None:
        wanted: Sequence[list[dict[str, Any]]] = [[], [lora(loras, "ink")], [lora(loras, "oil", 0.5)]]
        alone = [pixels(loaded, tmp_path, loras=each) for each in wanted]

        class Interleaved(Recorder):
            """At each of its boundaries, another job computes a whole picture."""

            def boundary(self, progress: Progress | None = None) -> None:
                super().boundary(progress)
                run(loaded, _new_folder(tmp_path), loras=wanted[(len(self.progress) + 1) % 3])

        for mine, expected in zip(wanted, alone, strict=True):
            given = {"prompt": "a red apple", "seed": 3, "steps": 4, "guidance_scale": 4.0, "loras": mine}
            work = Work(job_id="j", task="text-to-image", input={**given, "width": SIZE, "height": SIZE})
            [image] = DiffusionEngine().run(loaded, work, Interleaved(_new_folder(tmp_path))).outputs
            assert isinstance(image, Image) and np.array_equal(image.pixels, expected)

    def test_the_same_name_twice_adds_up(
        self, loaded: LoadedPipeline, loras: dict[str, str], tmp_path: Path
    ) -> None:
        once = pixels(loaded, tmp_path, loras=[lora(loras, "ink", 0.75)])
        twice = [lora(loras, "ink", 0.5), lora(loras, "ink", 0.25)]
        assert np.array_equal(once, pixels(loaded, tmp_path, loras=twice))

    def test_adapters_hold_for_every_task(
        self, loaded: LoadedPipeline, loras: dict[str, str], tmp_path: Path
    ) -> None:
        given = {"image": picture(), "strength": 1.0}
        plain = pixels(loaded, tmp_path, "image-to-image", **given)
        inked = pixels(loaded, tmp_path, "image-to-image", loras=[lora(loras, "ink")], **given)
        assert difference(plain, inked) > 0

    def test_an_adapter_is_loaded_once(
        self, folder: Path, loras: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fresh = load(folder)
        loads: list[str] = []
        original = fresh.pipe.load_lora_weights

        def counted(*args: Any, **options: Any) -> None:
            loads.append(options["adapter_name"])
            original(*args, **options)

        monkeypatch.setattr(fresh.pipe, "load_lora_weights", counted)
        for _ in range(2):
            run(fresh, tmp_path, loras=[lora(loras, "ink")])
        assert loads == ["ink"]

    def test_an_adapter_of_another_model_is_refused_and_leaves_the_model_as_it_was(
        self, loaded: LoadedPipeline, folder: Path, tmp_path: Path
    ) -> None:
        plain = pixels(loaded, tmp_path)
        other = tmp_path / "other.safetensors"
        path = additions.save_lora(folder, tmp_path / "lora", seed=5)
        save_file({name: torch.ones(3, 3) for name in load_file(path)}, other)
        with pytest.raises(ModelUnavailable, match="LoRA foreign does not fit StableDiffusionPipeline"):
            run(loaded, tmp_path, loras=[{"name": "foreign", "weight": 1.0, "path": str(other)}])
        assert np.array_equal(plain, pixels(loaded, tmp_path))

    def test_the_picture_says_which_adapters_made_it(
        self, loaded: LoadedPipeline, loras: dict[str, str], tmp_path: Path
    ) -> None:
        [image] = run(loaded, tmp_path, loras=[lora(loras, "ink", 0.5), lora(loras, "oil")])
        assert image.metadata["loras"] == "ink:0.5, oil:1"


@pytest.fixture(scope="module")
def controlled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedPipeline:
    network = additions.save_controlnet(folder, tmp_path_factory.mktemp("controlnet"))
    return load(folder, controlnet=str(network))


class TestControlNet:
    @pytest.mark.parametrize(
        ("task", "given"),
        [
            ("text-to-image", {}),
            ("image-to-image", {"image": picture(), "strength": 1.0}),
            ("inpainting", {"image": picture(), "mask": left_half(), "strength": 1.0}),
        ],
    )
    def test_the_control_image_leads_every_task_as_far_as_its_scale_says(
        self, task: str, given: dict[str, Any], controlled: LoadedPipeline, tmp_path: Path
    ) -> None:
        dark, light = (
            pixels(controlled, tmp_path, task, control_image=picture((shade,) * 3), **given)
            for shade in (0, 255)
        )
        assert difference(dark, light) > 0
        dark, light = (
            pixels(
                controlled,
                tmp_path,
                task,
                control_image=picture((shade,) * 3),
                controlnet_conditioning_scale=0.0,
                **given,
            )
            for shade in (0, 255)
        )
        assert np.array_equal(dark, light)

    def test_its_weights_count_for_the_models_memory(
        self, controlled: LoadedPipeline, loaded: LoadedPipeline
    ) -> None:
        assert controlled.nbytes == loaded.nbytes + module_bytes(controlled.pipe.controlnet)

    def test_a_folder_without_a_controlnet_says_so(self, folder: Path) -> None:
        with pytest.raises(ModelUnavailable, match="does not fit StableDiffusionPipeline"):
            load(folder, controlnet=str(folder / "unet"))


def test_clip_skip_changes_the_picture_and_knows_its_limit(tmp_path: Path) -> None:
    path = pipelines.save("sd", tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(path, safety_checker=None)
    config = {**pipe.text_encoder.config.to_dict(), "num_hidden_layers": 3}
    pipe.text_encoder = CLIPTextModel(CLIPTextConfig(**config))
    pipe.save_pretrained(tmp_path / "deeper", safe_serialization=True)
    deeper = load(tmp_path / "deeper")
    assert difference(pixels(deeper, tmp_path), pixels(deeper, tmp_path, clip_skip=2)) > 0
    with pytest.raises(JobError, match=r"clip_skip: 3 is not possible, .* at most 2 are left out"):
        run(deeper, tmp_path, clip_skip=3)
