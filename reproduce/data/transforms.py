"""Augmentation as frozen recipes, applied to a whole batch at once; each image has its own draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from reproduce.stage import role

if TYPE_CHECKING:
    import torch

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Pixels:
    """Mean and standard deviation of the pixels a network was first trained on, for values between 0 and 1."""

    mean: RGB
    std: RGB


IMAGENET = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
LUPERSON = Pixels(mean=(0.3525, 0.3106, 0.3140), std=(0.2660, 0.2522, 0.2505))
"""Statistics named `lup` in LUPerson's pre-training code."""


@dataclass(frozen=True)
class Erase:
    """Random erasing (Zhong et al., AAAI 2020): a rectangle of one colour; the defaults are those of Bag of Tricks."""

    p: float = 0.5
    """Probability that an image is erased."""
    area: tuple[float, float] = (0.02, 0.4)
    """Area of the rectangle, drawn evenly between these fractions of the image."""
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Height over width of the rectangle, drawn evenly between these."""
    log_aspect: bool = False
    """Draw the logarithm of the aspect evenly instead, as torchvision does."""
    when: Literal["before", "after"] = "after"
    """Whether `fill` is put in before normalisation (a colour between 0 and 1) or after it (a normalised value)."""
    fill: RGB = IMAGENET.mean
    """What the rectangle holds. The default is the colour ImageNet's mean, which the original code writes into
    normalised images: there it is a light grey, and (0, 0, 0) would be the mean."""

    def __post_init__(self) -> None:
        """Refuse what no rectangle can be drawn from."""
        ranges = 0 <= self.p <= 1 and 0 < self.area[0] <= self.area[1] <= 1 and 0 < self.aspect[0] <= self.aspect[1]
        if not ranges or self.when not in ("before", "after"):
            raise ValueError(f"not a recipe for random erasing: {self}")


@dataclass(frozen=True)
class Augment:
    """Flip, zero padding with a random crop back to the input size, normalisation, random erasing."""

    flip: float = 0.5
    """Probability of mirroring left and right."""
    pad: int = role("pixels", 10)
    """Black pixels added on each side before the crop; 0 leaves the crop out."""
    erase: Erase | None = None
    pixels: Pixels = IMAGENET
    """Statistics for the normalisation."""

    def __post_init__(self) -> None:
        """Refuse what is no probability and no width."""
        if not 0 <= self.flip <= 1 or self.pad < 0:
            raise ValueError(f"not a recipe for augmentation: {self}")


TRIES = 20
"""Rectangles drawn for an image; the first that fits is erased, and if none does the image stays whole. The original
draws up to 100; with 256 x 128 images and the default recipe all of 20 fail once in 1e25."""

_FLIP, _TOP, _LEFT, _ERASE, _ERASE_TOP, _ERASE_LEFT, _TRIES = range(7)
COLUMNS = 64
"""Numbers drawn for an image, used or not: a recipe without erasing flips and crops as one with it, and a transform
that takes spare columns leaves the draws of the others alone."""


def normalise(images: torch.Tensor, pixels: Pixels = IMAGENET) -> torch.Tensor:
    """Images (B, 3, H, W) of 0 .. 255 as float32 with the mean and the standard deviation of `pixels` taken out.

    The result lies channels-last in memory, as the backbones like it.
    """
    import torch

    return _normalised(images, pixels).contiguous(memory_format=torch.channels_last)


def augment(images: torch.Tensor, recipe: Augment, generator: torch.Generator) -> torch.Tensor:
    """Each image mirrored, moved, normalised and erased at random.

    All numbers are drawn on the CPU in one (B, 64) table, so image i's depend on the generator's state and on i
    alone, whatever the batch size and the device.

    Args:
        images: uint8 (B, 3, H, W), on any device.
        recipe: what to do how often and how strongly.
        generator: a CPU generator; it moves on by one table.

    Returns:
        float32 (B, 3, H, W), normalised, channels-last, on the images' device.
    """
    import torch

    count, channels, height, width = images.shape
    device = images.device
    draws = torch.rand(count, COLUMNS, generator=generator, dtype=torch.float64)
    shift = (draws[:, [_TOP, _LEFT]] * (2 * recipe.pad + 1)).long() - recipe.pad
    flip = (draws[:, [_FLIP]] < recipe.flip).long()
    box = _boxes(draws, recipe.erase, height, width)
    top, left, flip, *edges = torch.split(torch.cat([shift, flip, box], 1).to(device), 1, 1)

    rows = torch.arange(height, device=device) + top
    columns = torch.arange(width, device=device) + left
    inside = _both((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    columns = torch.where(flip > 0, width - 1 - columns, columns)
    source = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    moved = images.flatten(2).gather(2, source.view(count, 1, -1).expand(-1, channels, -1)).view_as(images)
    output = _normalised(moved * inside, recipe.pixels)

    if recipe.erase:
        fill = torch.tensor(recipe.erase.fill, device=device).view(3, 1, 1)
        if recipe.erase.when == "before":
            fill = _normalised(fill * 255, recipe.pixels)
        first_row, end_row, first_column, end_column = edges
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        erased = _both((rows >= first_row) & (rows < end_row), (columns >= first_column) & (columns < end_column))
        output = torch.where(erased, fill, output)
    return output.contiguous(memory_format=torch.channels_last)


def _both(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Where rows (B, H) and columns (B, W) are both true, as (B, 1, H, W)."""
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _normalised(images: torch.Tensor, pixels: Pixels) -> torch.Tensor:
    import torch

    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (pixels.mean, pixels.std))
    return images.float() * (1 / (255 * std)) - mean / std


def _boxes(draws: torch.Tensor, recipe: Erase | None, height: int, width: int) -> torch.Tensor:
    """Rectangles to erase (B, 4): first row, end row, first column, end column; empty where nothing is erased."""
    import torch

    if recipe is None:
        return torch.zeros(len(draws), 4, dtype=torch.int64)
    areas, aspects = draws[:, _TRIES : _TRIES + 2 * TRIES].view(-1, TRIES, 2).unbind(2)
    areas = _between(recipe.area, areas) * height * width
    if recipe.log_aspect:
        aspects = _between((math.log(recipe.aspect[0]), math.log(recipe.aspect[1])), aspects).exp()
    else:
        aspects = _between(recipe.aspect, aspects)
    sides = torch.stack([(areas * aspects).sqrt(), (areas / aspects).sqrt()], 2).round().long()
    room = torch.tensor([height, width])
    fits = (sides < room).all(2)
    first = fits.long().argmax(1)
    erased = (draws[:, _ERASE] < recipe.p) & fits.any(1)
    side = sides[torch.arange(len(sides)), first] * erased[:, None]
    corner = (draws[:, [_ERASE_TOP, _ERASE_LEFT]] * (room - side + 1)).long()
    return torch.stack([corner, corner + side], 2).flatten(1)


def _between(ends: tuple[float, float], fraction: torch.Tensor) -> torch.Tensor:
    return ends[0] + (ends[1] - ends[0]) * fraction
