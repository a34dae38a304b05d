"""Pictures from a generator: each depends on its own seed, and on nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import starters
from shared.catalog.entries.model import Folder, Model
from shared.errors import InvalidInput, ModelUnavailable
from tests.engines.contexts import Recorder
from worker.engines.contract.engine import Device, Image, Stopped, Work
from worker.engines.gan.engine import GanEngine, write_generator
from worker.engines.gan.networks import Discriminator, Generator, Shape

STARTER = Path(starters.__path__[0]) / "gan"


def model(folder: Path) -> Model:
    return Model(
        id="tiny",
        task="unconditional-image-generation",
        engine="gan",
        source=Folder(str(folder)),
        input_schema={},
        output="image/png",
    )


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """An untrained one, through its files."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gan")
    write_generator(Generator(Shape(image_size=16, latent=8, width=8, labels=("cat", "dog"))), folder)
    return GanEngine().load(model(folder), folder, Device())


def pictures(generator: Generator, context: Recorder, **given: Any) -> list[NDArray[np.uint8]]:
    given = {"truncation": 1.0, "num_images": 1, "seed": 5} | given
    work = Work(job_id="job_1", task="unconditional-image-generation", input=given)
    return [i.pixels for i in GanEngine().run(generator, work, context).outputs if isinstance(i, Image)]


def test_a_picture_depends_on_its_seed_and_not_on_its_neighbours(
    generator: Generator, tmp_path: Path
) -> None:
    many = pictures(generator, Recorder(tmp_path), num_images=3, seed=5)
    alone = [pictures(generator, Recorder(tmp_path), seed=seed)[0] for seed in (5, 6, 7)]
    assert np.array_equal(many, alone)
    assert not np.array_equal(many[0], many[1])


def test_a_label_is_taken_and_told(generator: Generator, tmp_path: Path) -> None:
    cat, dog = (pictures(generator, Recorder(tmp_path), label=label)[0] for label in ("cat", "dog"))
    assert cat.shape == (16, 16, 3)
    assert not np.array_equal(cat, dog)
    work = Work(
        job_id="job_1", task="", input={"truncation": 0.5, "num_images": 1, "seed": 5, "label": "dog"}
    )
    (image,) = GanEngine().run(generator, work, Recorder(tmp_path)).outputs
    assert isinstance(image, Image)
    assert image.metadata == {"seed": "5", "truncation": "0.5", "label": "dog"}


def test_an_unknown_label_is_answered_with_those_there_are(generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cat, dog"):
        pictures(generator, Recorder(tmp_path), label="fish")


def test_no_truncation_left_gives_the_average_picture(generator: Generator, tmp_path: Path) -> None:
    one, other = (
        pictures(generator, Recorder(tmp_path), seed=seed, truncation=0.0, label="cat")[0] for seed in (1, 2)
    )
    assert np.array_equal(one, other)


def test_a_job_is_canceled_between_two_pictures(generator: Generator, tmp_path: Path) -> None:
    context = Recorder(tmp_path, stop_at=3)
    with pytest.raises(Stopped):
        pictures(generator, context, num_images=10)
    assert [p.step for p in context.progress] == [0, 1, 2]


def test_broken_files_make_the_model_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"config\.json"):
        GanEngine().load(model(tmp_path), tmp_path, Device())
    write_generator(Generator(Shape(image_size=16, latent=8, width=8, labels=())), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        GanEngine().load(model(tmp_path), tmp_path, Device())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "other"}))
    with pytest.raises(ModelUnavailable, match="qanvas-gan"):
        GanEngine().load(model(tmp_path), tmp_path, Device())


@pytest.mark.parametrize("size", [16, 64, 128])
def test_both_networks_speak_of_pictures_of_one_size(size: int) -> None:
    shape = Shape(image_size=size, latent=8, width=8, labels=("a",))
    drawn = Generator(shape)(torch.randn(2, 8), torch.zeros(2, dtype=torch.int64))
    assert drawn.shape == (2, 3, size, size)
    assert Discriminator(shape)(drawn, torch.zeros(2, dtype=torch.int64)).shape == (2,)


def test_the_starter_draws_every_label_in_colour(tmp_path: Path) -> None:
    starter = GanEngine().load(model(STARTER), STARTER, Device())
    assert GanEngine().nbytes(starter) < 12_000_000
    for label in starter.shape.labels:
        drawn = pictures(starter, Recorder(tmp_path), label=label, num_images=4, truncation=0.8)
        for pixels in drawn:
            assert pixels[0, 0].min() > 200, "the corner is white paper"
            assert pixels[16:48, 16:48].std() > 20, "and in the middle there is something"
        assert not np.array_equal(drawn[0], drawn[1])
