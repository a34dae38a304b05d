"""Weights that lack tensors are refused, whichever way they are loaded; what is tied is not missing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from shared.catalog.entries.model import Folder, Model
from shared.errors import ModelUnavailable
from tests.engines import pipelines
from tests.engines.additions import save_controlnet, save_lora
from worker.engines.contract.engine import Device
from worker.engines.diffusion.engine import DiffusionEngine, LoadedPipeline
from worker.engines.gan.engine import GanEngine, write_generator
from worker.engines.gan.networks import Generator, Shape
from worker.engines.text.engine import TextEngine

Tensors = dict[str, torch.Tensor]


def rewrite(path: Path, change: Callable[[Tensors], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def without(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        del tensors[name]

    return change


def with_another(tensors: Tensors) -> None:
    tensors["of.nobody"] = torch.zeros(2)


def some_name(path: Path) -> str:
    """One in the middle of the file."""
    names = sorted(load_file(path))
    return names[len(names) // 2]


def entry(folder: Path, **options: Any) -> Model:
    return Model(
        id="m",
        task="t",
        engine="e",
        source=Folder(str(folder)),
        input_schema={},
        output="image/png",
        options=options,
    )


def load_pipeline(folder: Path, **options: Any) -> LoadedPipeline:
    return DiffusionEngine().load(entry(folder, **options), folder, Device())


def refusal(load: Callable[[], object]) -> str:
    with pytest.raises(ModelUnavailable) as refused:
        load()
    assert not refused.value.retryable
    return refused.value.message


@pytest.mark.parametrize("kind", ["sd", pytest.param("sdxl", marks=pytest.mark.slow), "sd3", "pixart"])
def test_a_pipeline_any_of_whose_parts_lacks_a_tensor_is_refused_by_its_name(
    kind: str, tmp_path: Path
) -> None:
    folder = pipelines.save(kind, tmp_path)
    load_pipeline(folder)  # what is whole is loaded, T5 with its tied embedding too
    parts = sorted(folder.glob("*/*.safetensors"))
    assert len(parts) >= 3
    for path in parts:
        whole, name = path.read_bytes(), some_name(path)
        rewrite(path, without(name))
        said = refusal(lambda: load_pipeline(folder))
        assert name.split(".", 1)[-1] in said and "not there in its files" in said and "model m" in said
        path.write_bytes(whole)
    load_pipeline(folder)


def test_a_message_names_some_of_many_missing_tensors(tmp_path: Path) -> None:
    folder = pipelines.save("sd", tmp_path)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    rewrite(path, lambda tensors: [tensors.pop(name) for name in sorted(tensors)[:30]] and None)
    said = refusal(lambda: load_pipeline(folder))
    assert said.count(".weight") + said.count(".bias") == 5 and "and 25 more" in said


def test_tensors_too_many_are_told_in_the_log_and_the_model_is_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = pipelines.save("sd", tmp_path)
    for path in folder.glob("*/*.safetensors"):
        rewrite(path, with_another)
    with caplog.at_level(logging.WARNING):
        load_pipeline(folder)
    told = [record.message for record in caplog.records if record.name == "worker.engines.weights"]
    assert len(told) == 3 and all("of.nobody, which it does not use" in one for one in told)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_tensors_of_another_shape_are_refused(part: str, tmp_path: Path) -> None:
    folder = pipelines.save("sd", tmp_path)
    [path] = (folder / part).glob("*.safetensors")
    name = some_name(path)

    def change(tensors: Tensors) -> None:
        tensors[name] = torch.zeros(3, 5, 7)

    rewrite(path, change)
    assert "m cannot be loaded" in refusal(lambda: load_pipeline(folder))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = pipelines.save("sd", tmp_path)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be loaded" in refusal(lambda: load_pipeline(folder))


def test_a_controlnet_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    folder = pipelines.save("sd", tmp_path)
    controlnet = save_controlnet(folder, tmp_path / "controlnet")
    load_pipeline(folder, controlnet=str(controlnet))
    [path] = controlnet.glob("*.safetensors")
    name = some_name(path)
    rewrite(path, without(name))
    said = refusal(lambda: load_pipeline(folder, controlnet=str(controlnet)))
    assert name in said and "the ControlNet" in said


TINY = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}


def save_text_model(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    if kind == "tied":  # the head is the embedding: its tensor is in no file
        GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, **TINY)).save_pretrained(folder)
    else:
        config = LlamaConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=False,
            **TINY,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    pipelines.tokenizer(folder / "words").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["tied", "apart"])
def test_a_language_model_that_lacks_a_tensor_is_refused_and_a_tied_head_is_none(
    kind: str, tmp_path: Path
) -> None:
    folder = save_text_model(kind, tmp_path / "model")
    path = folder / "model.safetensors"
    assert ("lm_head.weight" in load_file(path)) == (kind == "apart")

    def load() -> object:
        return TextEngine().load(entry(folder), folder, Device())

    load()
    name = some_name(path) if kind == "tied" else "lm_head.weight"
    rewrite(path, without(name))
    assert name in refusal(load)


def save_gan(folder: Path) -> Path:
    write_generator(Generator(Shape(image_size=8, latent=4, width=2, labels=())), folder)
    return folder / "model.safetensors"


def test_a_generator_that_lacks_a_tensor_is_refused_and_one_with_too_many_is_loaded(tmp_path: Path) -> None:
    path = save_gan(tmp_path / "gan")

    def load() -> object:
        return GanEngine().load(entry(path.parent), path.parent, Device())

    rewrite(path, with_another)
    load()
    rewrite(path, without("last.bias"))
    assert "last.bias" in refusal(load)


class TestLora:
    @pytest.fixture
    def pipeline(self, tmp_path: Path) -> Path:
        return pipelines.save("sd", tmp_path)

    def load(self, pipeline: Path, lora: Path) -> None:
        load_pipeline(pipeline).adapters.load([{"name": "style", "path": str(lora)}])

    def lose(self, lora: Path, share: float, *, side: str = "lora_") -> None:
        """Rename the layers of a share of the tensors to what the model does not have."""
        tensors = load_file(lora)
        layers = sorted({name.partition(".lora")[0] for name in tensors})
        lost = tuple(layers[: round(share * len(layers))])
        save_file(
            {
                name.replace("attn", "nobody") if name.startswith(lost) and side in name else name: tensor
                for name, tensor in tensors.items()
            },
            lora,
            {"format": "pt"},
        )

    @pytest.mark.parametrize(("share", "fits"), [(0.0, True), (0.4, True), (0.75, False), (1.0, False)])
    def test_an_adapter_less_than_half_of_whose_layers_are_in_the_model_is_refused(
        self, share: float, fits: bool, pipeline: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        lora = save_lora(pipeline, tmp_path / "lora", seed=1)
        self.lose(lora, share)
        if fits:
            self.load(pipeline, lora)
            assert ("of its" in caplog.text) == (share > 0)
        else:
            assert "LoRA style does not fit" in refusal(lambda: self.load(pipeline, lora))

    def test_an_adapter_for_two_parts_of_the_pipeline_counts_both(
        self, pipeline: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.load(pipeline, save_lora(pipeline, tmp_path / "lora", seed=1, text=True))
        assert "of its" not in caplog.text

    def test_an_adapter_that_lacks_one_of_two_tensors_of_most_layers_is_refused(
        self, pipeline: Path, tmp_path: Path
    ) -> None:
        lora = save_lora(pipeline, tmp_path / "lora", seed=1)
        tensors = load_file(lora)
        kept = {name: tensor for name, tensor in tensors.items() if "lora_B" not in name}
        kept |= dict([next((name, tensor) for name, tensor in tensors.items() if "lora_B" in name)])
        assert len(kept) < len(tensors)
        save_file(kept, lora, {"format": "pt"})
        assert "LoRA style does not fit" in refusal(lambda: self.load(pipeline, lora))


def test_the_folder_that_says_nothing_of_its_size_is_refused_without_a_crash(tmp_path: Path) -> None:
    path = save_gan(tmp_path / "gan")
    config = json.loads((path.parent / "config.json").read_text())
    del config["width"]
    (path.parent / "config.json").write_text(json.dumps(config))
    refusal(lambda: GanEngine().load(entry(path.parent), path.parent, Device()))
