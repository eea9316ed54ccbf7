"""Batched augmentation against one image at a time, by PIL and plain loops."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from reproduce.data.sampling import generator
from reproduce.data.transforms import COLUMNS, LUPERSON, TRIES, Augment, Erase, augment, normalise
from reproduce.stage import spec


def pictures(count: int, height: int = 24, width: int = 10) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=generator(0, "pictures"), dtype=torch.uint8)


def slow(images: torch.Tensor, recipe: Augment, random: torch.Generator) -> np.ndarray:
    """The transforms of the original code on PIL images, one after another; only the numbers come from the table."""
    height, width = images.shape[2:]
    table = torch.rand(len(images), COLUMNS, generator=random, dtype=torch.float64).tolist()
    mean, std = np.array(recipe.pixels.mean), np.array(recipe.pixels.std)
    output = []
    for image, (flip, top, left, gate, row, column, *tries) in zip(images, table, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        if flip < recipe.flip:
            picture = ImageOps.mirror(picture)
        picture = ImageOps.expand(picture, recipe.pad)
        x, y = int(left * (2 * recipe.pad + 1)), int(top * (2 * recipe.pad + 1))
        values = np.asarray(picture.crop((x, y, x + width, y + height))) / 255
        erase = recipe.erase
        if erase and erase.when == "after":
            values = (values - mean) / std
        if erase and gate < erase.p:
            for area, aspect in zip(tries[: 2 * TRIES : 2], tries[1 : 2 * TRIES : 2], strict=True):
                pixels = (erase.area[0] + (erase.area[1] - erase.area[0]) * area) * height * width
                low, high = map(math.log, erase.aspect) if erase.log_aspect else erase.aspect
                ratio = low + (high - low) * aspect
                ratio = math.exp(ratio) if erase.log_aspect else ratio
                h, w = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
                if h < height and w < width:
                    first, start = int(row * (height - h + 1)), int(column * (width - w + 1))
                    values[first : first + h, start : start + w] = erase.fill
                    break
        if not erase or erase.when == "before":
            values = (values - mean) / std
        output.append(values.transpose(2, 0, 1))
    return np.stack(output)


RECIPES = [
    Augment(erase=None, flip=0, pad=0),
    Augment(pad=3),
    Augment(pad=10, flip=1),
    Augment(pad=2, erase=Erase()),
    Augment(pad=0, flip=0, erase=Erase(p=1, fill=(0, 0, 0))),
    Augment(pad=2, erase=Erase(p=1, when="before", area=(0.02, 0.33), aspect=(0.3, 3.3), log_aspect=True)),
    Augment(pad=2, erase=Erase(p=1, area=(0.5, 1), aspect=(1, 4)), pixels=LUPERSON),  # most rectangles do not fit
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_batches_are_what_single_images_are(recipe: Augment) -> None:
    images = pictures(64)
    found = augment(images, recipe, generator(1, "augment"))
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found.numpy(), slow(images, recipe, generator(1, "augment")), rtol=0, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    pad=st.integers(0, 5),
    p=st.sampled_from([0.0, 0.5, 1.0]),
    when=st.sampled_from(["before", "after"]),
    seed=st.integers(0, 99),
)
def test_any_size_and_padding(size: tuple[int, int], pad: int, p: float, when: str, seed: int) -> None:
    images = pictures(6, *size)
    recipe = Augment(pad=pad, erase=Erase(p=p, when=when))  # type: ignore[arg-type]
    found = augment(images, recipe, generator(seed))
    np.testing.assert_allclose(found.numpy(), slow(images, recipe, generator(seed)), rtol=0, atol=2e-6)


def test_an_image_depends_on_its_position_alone() -> None:
    images, recipe = pictures(20), Augment(pad=3, erase=Erase())
    whole = augment(images, recipe, generator(1))
    for count in (1, 7, 16):
        assert torch.equal(augment(images[:count], recipe, generator(1)), whole[:count])
    other = images.clone()
    other[:19] = 0
    assert torch.equal(augment(other, recipe, generator(1))[19], whole[19])


def test_leaving_erasing_out_keeps_flips_and_crops() -> None:
    images = pictures(64)
    erased = augment(images, Augment(pad=3, erase=Erase(p=1, fill=(9, 9, 9))), generator(1))
    plain = augment(images, Augment(pad=3), generator(1))
    assert torch.equal(torch.where(erased == 9, plain, erased), plain)
    assert (erased == 9).any((1, 2, 3)).all()


def test_the_generator_moves_on() -> None:
    images, recipe, random = pictures(8), Augment(pad=3), generator(1)
    assert not torch.equal(augment(images, recipe, random), augment(images, recipe, random))


def test_the_input_stays_as_it_was() -> None:
    images = pictures(8)
    before = images.clone()
    augment(images, Augment(pad=3, erase=Erase(p=1)), generator(1))
    assert torch.equal(images, before)


def test_how_often_and_how_strongly() -> None:
    images = torch.full((4000, 3, 32, 16), 128, dtype=torch.uint8)
    images[:, :, :, 0] = 255
    moved = augment(images, Augment(pad=0), generator(1))
    flipped = (moved[:, 0, 0, -1] > moved[:, 0, 0, 0]).float().mean().item()
    assert flipped == pytest.approx(0.5, abs=0.03)
    erased = (augment(images, Augment(pad=0, erase=Erase(fill=(9, 9, 9))), generator(1)) == 9)[:, 0].float()
    touched = erased.amax((1, 2)) > 0
    assert touched.float().mean().item() == pytest.approx(0.5, abs=0.03)
    areas = erased[touched].mean((1, 2))
    assert 0.01 < areas.min() < 0.03
    assert 0.37 < areas.max() < 0.43
    cropped = augment(torch.full((4000, 3, 8, 4), 255, dtype=torch.uint8), Augment(flip=0, pad=1), generator(1))
    black = (cropped[:, 0, 0] < 0).all(1).float().mean().item()
    assert black == pytest.approx(1 / 3, abs=0.03)  # one of the three vertical positions shows the upper padding


def test_normalise() -> None:
    images = pictures(5)
    expected = (images.double() / 255 - torch.tensor(LUPERSON.mean).view(3, 1, 1)) / torch.tensor(LUPERSON.std).view(
        3, 1, 1
    )
    found = normalise(images, LUPERSON)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalise(images), augment(images, Augment(flip=0, pad=0), generator(1)))


def test_recipes_are_values() -> None:
    recipe = Augment(erase=Erase())
    assert recipe == Augment(erase=Erase())
    assert hash(recipe) == hash(Augment(erase=Erase()))
    assert spec(recipe)["erase"]["p"] == 0.5
    assert {field.name: field.metadata.get("role") for field in dataclasses.fields(Augment)}["pad"] == "pixels"


@pytest.mark.parametrize(
    "wrong", [{"p": 1.5}, {"area": (0.4, 0.02)}, {"area": (0, 0.4)}, {"aspect": (0, 1)}, {"when": "never"}], ids=str
)
def test_impossible_erasing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a recipe for random erasing"):
        Erase(**wrong)


@pytest.mark.parametrize("wrong", [{"flip": -1}, {"pad": -1}], ids=str)
def test_impossible_augmentation_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a recipe for augmentation"):
        Augment(**wrong)


def test_importing_recipes_and_samplers_needs_no_torch() -> None:
    code = (
        "import sys, reproduce.data.transforms, reproduce.data.sampling; print({'torch', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
