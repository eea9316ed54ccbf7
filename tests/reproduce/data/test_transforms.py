"""Batched augmentation against PIL and plain loops on single images."""

from __future__ import annotations

import colorsys
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

from reproduce.data import transforms
from reproduce.data.sampling import generator
from reproduce.data.transforms import (
    COLUMNS,
    LUPERSON,
    TRIES,
    Augment,
    Blur,
    Colour,
    Crop,
    Distort,
    Erase,
    Pixels,
    Reframe,
    augment,
    normalise,
)
from reproduce.stage import spec


def pictures(count: int, height: int = 24, width: int = 10) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=generator(0, "pictures"), dtype=torch.uint8)


def luma(pixel: list[float]) -> float:
    return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]


def slow_colours(values: np.ndarray, recipe: Colour, row: list[float]) -> np.ndarray:
    """Distort an image (H, W, 3) of 0 .. 1 pixel by pixel; `row` is its table of draws from the jitter's gate on."""
    gate, *factors = row[:5]
    grey, order = row[9], sorted(range(4), key=lambda kind: row[5 + kind])
    pixels = values.reshape(-1, 3).tolist()
    for kind in order if gate < recipe.p else ():
        if kind == 3:
            for pixel in pixels:
                hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
                pixel[:] = colorsys.hsv_to_rgb((hue + recipe.hue * (2 * factors[3] - 1)) % 1, saturation, value)
            continue
        strength = (recipe.brightness, recipe.contrast, recipe.saturation)[kind]
        low = max(0, 1 - strength)
        factor = low + (1 + strength - low) * factors[kind]
        mean = sum(map(luma, pixels)) / len(pixels)
        for pixel in pixels:
            base = (0, mean, luma(pixel))[kind]
            pixel[:] = [min(max(base + factor * (channel - base), 0), 1) for channel in pixel]
    if grey < recipe.grey:
        pixels = [3 * [luma(pixel)] for pixel in pixels]
    return np.array(pixels).reshape(values.shape)


def slow(images: torch.Tensor, recipe: Augment, random: torch.Generator) -> np.ndarray:
    """Apply the original code's transforms to PIL images one by one, with random numbers from the table."""
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
        if isinstance(recipe, Distort) and recipe.colour:
            values = slow_colours(values, recipe.colour, tries[2 * TRIES :])
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
def test_batches_equal_single_images(recipe: Augment) -> None:
    images = pictures(64)
    output = augment(images, recipe, generator(1, "augment"))
    assert output.dtype == torch.float32
    assert output.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(output.numpy(), slow(images, recipe, generator(1, "augment")), rtol=0, atol=2e-6)


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
    output = augment(images, recipe, generator(seed))
    np.testing.assert_allclose(output.numpy(), slow(images, recipe, generator(seed)), rtol=0, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    count=st.integers(1, 20),
    pad=st.integers(0, 15),
    p=st.sampled_from([0.0, 0.5, 1.0]),
    colour=st.booleans(),
    seed=st.integers(0, 99),
)
def test_gpu_form_is_bit_equal(size: tuple[int, int], count: int, pad: int, p: float, colour: bool, seed: int) -> None:
    images = pictures(count, *size)
    recipe = Distort(pad=pad, erase=Erase(p=p), colour=Colour() if colour else None)
    output = augment(images, recipe, generator(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "_shifted", transforms._gathered)
        patch.setattr(transforms, "_fill_slices", transforms._fill_masked)
        patch.setattr(transforms, "_CACHED", 1000)
        assert torch.equal(augment(images, recipe, generator(seed)), output)


DISTORTIONS = [
    Colour(),
    Colour(p=1, grey=0),
    Colour(p=0, grey=1),
    Colour(p=1, brightness=0.9, contrast=0, saturation=0, hue=0, grey=0),
    Colour(p=1, brightness=0, contrast=2, saturation=0, hue=0, grey=0),
    Colour(p=1, brightness=0, contrast=0, saturation=2, hue=0, grey=0),
    Colour(p=1, brightness=0, contrast=0, saturation=0, hue=0.5, grey=0),
]


@pytest.mark.parametrize("colour", DISTORTIONS, ids=str)
def test_colour_distortion_of_batches_equals_single_images(colour: Colour) -> None:
    images = pictures(64)
    images[:4] = images[:4, :1]  # greys have no hue
    images[4], images[5], images[6, 1:] = 0, 255, 0
    recipe = Distort(pad=2, erase=Erase(), colour=colour)
    output = augment(images, recipe, generator(1, "augment"))
    assert output.dtype == torch.float32
    assert output.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(output.numpy(), slow(images, recipe, generator(1, "augment")), rtol=0, atol=2e-5)


PLAIN = Pixels(mean=(0, 0, 0), std=(1 / 255,) * 3)
"""Statistics that leave pixels between 0 and 255."""


def test_zero_strength_changes_no_colour() -> None:
    images = pictures(64)
    still = Colour(p=1, brightness=0, contrast=0, saturation=0, hue=0, grey=0)
    output = augment(images, Distort(flip=0, pad=0, pixels=PLAIN, colour=still), generator(1))
    torch.testing.assert_close(output, images.float(), rtol=0, atol=1e-3)
    never = Distort(pad=3, erase=Erase(), colour=Colour(p=0, grey=0))
    for same in (never, Distort(pad=3, erase=Erase())):
        assert torch.equal(
            augment(images, same, generator(1)), augment(images, Augment(pad=3, erase=Erase()), generator(1))
        )


@settings(max_examples=30, deadline=None)
@given(
    strengths=st.tuples(*3 * [st.floats(0, 5)]), hue=st.floats(0, 0.5), grey=st.floats(0, 1), seed=st.integers(0, 99)
)
def test_colours_stay_in_range(strengths: tuple[float, float, float], hue: float, grey: float, seed: int) -> None:
    recipe = Distort(flip=0, pad=0, pixels=PLAIN, colour=Colour(1, *strengths, hue, grey))
    output = augment(pictures(6, 5, 4), recipe, generator(seed))
    assert output.isfinite().all()
    assert output.min() >= -1e-3
    assert output.max() <= 255 + 1e-3


def test_colour_distortion_keeps_flips_crops_and_erasing() -> None:
    """The geometry of a black and white picture stays visible, whatever its colours."""
    images = pictures(64) // 128 * 255
    images[:] = images[:, :1]
    plain = Augment(pad=3, erase=Erase(p=1, fill=(9, 9, 9)))
    one = augment(images, plain, generator(1))
    other = augment(
        images, Distort(pad=3, erase=plain.erase, colour=Colour(brightness=0.3, contrast=0.3)), generator(1)
    )
    assert torch.equal(one == 9, other == 9)
    assert torch.equal(one > 0, other > 0)


def test_frequency_of_colour_changes() -> None:
    images = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1).repeat(4000, 1, 2, 2)
    output = augment(images, Distort(flip=0, pad=0, pixels=PLAIN, colour=Colour()), generator(1))
    grey = (output.amax(1) - output.amin(1)).amax((1, 2)) < 1e-3
    assert grey.float().mean().item() == pytest.approx(0.2, abs=0.03)
    same = (output - images).abs().amax((1, 2, 3)) < 1e-3
    assert same.float().mean().item() == pytest.approx(0.2 * 0.8, abs=0.03)
    brighter = Colour(p=1, contrast=0, saturation=0, hue=0, grey=0, brightness=0.2)
    factors = augment(images, Distort(flip=0, pad=0, pixels=PLAIN, colour=brighter), generator(1))[:, 0, 0, 0] / 200
    assert factors.min().item() == pytest.approx(0.8, abs=0.01)
    assert factors.max().item() == pytest.approx(1.2, abs=0.01)
    assert factors.mean().item() == pytest.approx(1, abs=0.01)


def test_order_of_changes_differs_between_images() -> None:
    images = pictures(1, 4, 4).repeat(64, 1, 1, 1)
    recipe = Colour(p=1, grey=0)
    table = torch.rand(64, COLUMNS, generator=generator(1), dtype=torch.float64)
    orders = {tuple(row) for row in table[:, 6 + 2 * TRIES + 5 :][:, :4].argsort(1).tolist()}
    assert len(orders) > 15
    assert not torch.equal(*augment(images, Distort(flip=0, pad=0, colour=recipe), generator(1))[:2])


@pytest.mark.parametrize("recipe", [Augment(pad=3, erase=Erase()), Distort(pad=3, erase=Erase(), colour=Colour())])
def test_draws_depend_only_on_the_position(recipe: Augment) -> None:
    images = pictures(20)
    whole = augment(images, recipe, generator(1))
    for count in (1, 7, 16):
        assert torch.equal(augment(images[:count], recipe, generator(1)), whole[:count])
    other = images.clone()
    other[:19] = 0
    assert torch.equal(augment(other, recipe, generator(1))[19], whole[19])


def test_disabling_erasing_keeps_flips_and_crops() -> None:
    images = pictures(64)
    erased = augment(images, Augment(pad=3, erase=Erase(p=1, fill=(9, 9, 9))), generator(1))
    plain = augment(images, Augment(pad=3), generator(1))
    assert torch.equal(torch.where(erased == 9, plain, erased), plain)
    assert (erased == 9).any((1, 2, 3)).all()


def test_generator_advances() -> None:
    images, recipe, random = pictures(8), Augment(pad=3), generator(1)
    assert not torch.equal(augment(images, recipe, random), augment(images, recipe, random))


def test_input_is_not_changed() -> None:
    images = pictures(8)
    before = images.clone()
    augment(images, Augment(pad=3, erase=Erase(p=1)), generator(1))
    assert torch.equal(images, before)


def test_frequencies_and_strengths() -> None:
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
    output = normalise(images, LUPERSON)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=2e-6)
    assert output.is_contiguous(memory_format=torch.channels_last)
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
def test_invalid_erasing_raises(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a recipe for random erasing"):
        Erase(**wrong)


@pytest.mark.parametrize("wrong", [{"flip": -1}, {"pad": -1}], ids=str)
def test_invalid_augmentation_raises(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a recipe for augmentation"):
        Augment(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"p": 1.5}, {"grey": -0.1}, {"brightness": -1}, {"contrast": -1}, {"saturation": -1}, {"hue": 0.6}],
    ids=str,
)
def test_invalid_colours_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a recipe for colour distortion"):
        Colour(**wrong)


def test_colours_do_not_change_the_keys_of_other_recipes() -> None:
    """Recipes without colours keep their description, and so the keys of stages run before colours existed."""
    assert set(spec(Augment())) == {"type", "flip", "pad", "erase", "pixels"}
    assert spec(Distort(colour=Colour()))["colour"]["hue"] == 0.1
    assert spec(Distort()) != spec(Augment())


def test_import_needs_no_torch() -> None:
    code = (
        "import sys, reproduce.data.transforms, reproduce.data.sampling; print({'torch', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def slow_frame(image: torch.Tensor, recipe: Reframe, row: list[float]) -> np.ndarray:
    """Crop an image (3, H, W) by torchvision's rules with draws from a row of the second table."""
    height, width = image.shape[1:]
    assert recipe.crop
    (low, high), ends = recipe.crop.area, [math.log(end) for end in recipe.crop.aspect]
    for area, aspect in zip(row[0:20:2], row[1:20:2], strict=True):
        pixels = (low + (high - low) * area) * height * width
        ratio = math.exp(ends[0] + (ends[1] - ends[0]) * aspect)
        h, w = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = int(row[20] * (height - h + 1)), int(row[21] * (width - w + 1))
            break
    else:
        h, w = height, width
        if height / width > recipe.crop.aspect[1]:
            h = round(width * recipe.crop.aspect[1])
        elif height / width < recipe.crop.aspect[0]:
            w = round(height / recipe.crop.aspect[0])
        top, left = (height - h) // 2, (width - w) // 2
    channels = [Image.fromarray(channel.numpy().astype(np.float32)) for channel in image]
    box = (left, top, left + w, top + h)
    resized = [channel.crop(box).resize((width, height), Image.Resampling.BILINEAR) for channel in channels]
    return np.stack([np.asarray(channel) for channel in resized])


CROPS_HERE = [Crop(), Crop(area=(0.9, 1)), Crop(area=(0.05, 0.1), aspect=(1, 1)), Crop(area=(0.8, 1.0), aspect=(1, 2))]


@pytest.mark.parametrize("crop", CROPS_HERE, ids=str)
@pytest.mark.parametrize("size", [(24, 12), (12, 24), (32, 16)], ids=str)
def test_resized_crops_equal_those_of_single_images(crop: Crop, size: tuple[int, int]) -> None:
    """Of (0.9, 1) all rectangles fail on such images, so the largest central one is taken."""
    images, recipe = pictures(64, *size), Reframe(flip=0, crop=crop, blur=None, pixels=LUPERSON)
    output = augment(images, recipe, generator(1, "augment"))
    random = generator(1, "augment")
    torch.rand(64, COLUMNS, generator=random, dtype=torch.float64)
    table = torch.rand(64, 24, generator=random, dtype=torch.float64).tolist()
    values = np.stack([slow_frame(image, recipe, row) for image, row in zip(images, table, strict=True)])
    mean, std = (np.array(each)[:, None, None] for each in (LUPERSON.mean, LUPERSON.std))
    np.testing.assert_allclose(output.numpy(), (values / 255 - mean) / std, rtol=0, atol=2e-5)
    assert output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rows", [256, 24], ids=["shrunk", "full"])
def test_blur_equals_scipy_s(rows: int) -> None:
    from scipy.ndimage import gaussian_filter

    images, recipe = pictures(64), Reframe(flip=0, crop=None, blur=Blur(rows=rows))
    output = augment(images, recipe, generator(1, "augment"))
    random = generator(1, "augment")
    torch.rand(64, COLUMNS, generator=random, dtype=torch.float64)
    table = torch.rand(64, 24, generator=random, dtype=torch.float64).tolist()
    mean, std = (np.array(each)[:, None, None] for each in (recipe.pixels.mean, recipe.pixels.std))
    reach = math.ceil(6 * 24 / rows)
    for image, shown, row in zip(images.numpy(), output.numpy(), table, strict=True):
        sigma = (0.1 + 1.9 * row[23]) * 24 / rows
        blurred = gaussian_filter(image.astype(float), (0, sigma, sigma), mode="nearest", radius=(0, reach, reach))
        expected = blurred if row[22] < 0.5 else image
        np.testing.assert_allclose(shown, (expected / 255 - mean) / std, rtol=0, atol=2e-5)


def test_a_reframed_image_is_flipped_distorted_and_erased_like_others() -> None:
    images = pictures(64)
    plain = Distort(pad=0, colour=Colour(), erase=Erase())
    reframed = Reframe(colour=Colour(), erase=Erase(), crop=None, blur=None)
    assert torch.equal(augment(images, plain, generator(2)), augment(images, reframed, generator(2)))


@pytest.mark.parametrize(
    "recipe", [lambda: Crop(area=(0, 1)), lambda: Crop(aspect=(2, 1)), lambda: Blur(p=2), lambda: Blur(sigma=(0, 1))]
)
def test_invalid_crops_and_blurs_raise(recipe: Any) -> None:
    with pytest.raises(ValueError, match="not a recipe for"):
        recipe()
