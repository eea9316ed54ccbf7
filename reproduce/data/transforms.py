"""Augmentation recipes as values, applied to whole batches with a separate draw per image."""

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
    """Statistics of the pixels that a network was first trained on, for values between 0 and 1."""

    mean: RGB
    """Mean."""
    std: RGB
    """Standard deviation."""


IMAGENET = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
LUPERSON = Pixels(mean=(0.3525, 0.3106, 0.3140), std=(0.2660, 0.2522, 0.2505))
"""Statistics named `lup` in LUPerson's pre-training code."""


@dataclass(frozen=True)
class Erase:
    """Random erasing of a rectangle (Zhong et al., AAAI 2020); the defaults are those of Bag of Tricks."""

    p: float = 0.5
    """Probability that an image is erased."""
    area: tuple[float, float] = (0.02, 0.4)
    """Area of the rectangle, drawn uniformly between these fractions of the image."""
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Height over width of the rectangle, drawn uniformly between these."""
    log_aspect: bool = False
    """Draw the logarithm of the aspect uniformly instead, like torchvision."""
    when: Literal["before", "after"] = "after"
    """Whether to write `fill` before normalisation (a colour between 0 and 1) or after it (a normalised value)."""
    fill: RGB = IMAGENET.mean
    """Value of the rectangle. The default is ImageNet's mean colour, which the original code writes into normalised
    images: there it is a light grey, and (0, 0, 0) would be the mean."""

    def __post_init__(self) -> None:
        """Reject invalid probabilities, ranges and moments."""
        ranges = 0 <= self.p <= 1 and 0 < self.area[0] <= self.area[1] <= 1 and 0 < self.aspect[0] <= self.aspect[1]
        if not ranges or self.when not in ("before", "after"):
            raise ValueError(f"not a recipe for random erasing: {self}")


@dataclass(frozen=True)
class Augment:
    """Flip, zero padding with a random crop back to the input size, normalisation, random erasing."""

    flip: float = 0.5
    """Probability of mirroring left and right."""
    pad: int = role("pixels", 10)
    """Black pixels added on each side before the crop; 0 for no crop."""
    erase: Erase | None = None
    """Random erasing; None for none."""
    pixels: Pixels = IMAGENET
    """Statistics for normalisation."""

    def __post_init__(self) -> None:
        """Reject invalid probabilities and widths."""
        if not 0 <= self.flip <= 1 or self.pad < 0:
            raise ValueError(f"not a recipe for augmentation: {self}")


@dataclass(frozen=True)
class Colour:
    """Colour distortion: jitter, then grey, of SimCLR (Chen et al., ICML 2020, appendix A).

    The defaults are SimCLR's strength 0.5, which is also MoCo v2's. A jittered image gets each of the four changes
    once, in random order. Values are clipped to 0 .. 255 after each change, and never rounded.
    """

    p: float = 0.8
    """Probability that an image is jittered."""
    brightness: float = 0.4
    """The factor on all values is uniform between max(0, 1 - this) and 1 + this; likewise for the next two."""
    contrast: float = 0.4
    """Strength of the factor on differences to the image's mean grey."""
    saturation: float = 0.4
    """Strength of the factor on differences to the pixel's grey."""
    hue: float = 0.1
    """Largest rotation of the hue in either direction, as a fraction of the circle."""
    grey: float = 0.2
    """Probability that an image, jittered or not, loses its colours (luma of ITU-R BT.601)."""

    def __post_init__(self) -> None:
        """Reject invalid probabilities and strengths."""
        chances = 0 <= self.p <= 1 and 0 <= self.grey <= 1
        if not chances or min(self.brightness, self.contrast, self.saturation) < 0 or not 0 <= self.hue <= 0.5:
            raise ValueError(f"not a recipe for colour distortion: {self}")


@dataclass(frozen=True)
class Distort(Augment):
    """Like `Augment`, with colour distortion between crop and normalisation."""

    colour: Colour | None = None
    """Colour distortion; None for none."""


@dataclass(frozen=True)
class Crop:
    """Crop of a random rectangle, resized to the whole image (torchvision's RandomResizedCrop).

    The first of ten drawn rectangles that fits is taken; if none does, the largest central one of an allowed aspect.
    """

    area: tuple[float, float] = (0.2, 1.0)
    """Area of the rectangle, drawn uniformly between these fractions of the image."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Height over width of the rectangle in pixels; its logarithm is drawn uniformly."""

    def __post_init__(self) -> None:
        """Reject invalid ranges."""
        if not (0 < self.area[0] <= self.area[1] <= 1 and 0 < self.aspect[0] <= self.aspect[1]):
            raise ValueError(f"not a recipe for random crops: {self}")


@dataclass(frozen=True)
class Blur:
    """Gaussian blur of SimCLR and MoCo v2; edges are extended."""

    p: float = 0.5
    """Probability that an image is blurred."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Standard deviation, drawn uniformly between these; in pixels of an image of `rows` rows."""
    rows: int = 256
    """Rows of the images that `sigma` refers to; it shrinks and grows with the images' height."""

    def __post_init__(self) -> None:
        """Reject invalid probabilities and ranges."""
        if not (0 <= self.p <= 1 and 0 < self.sigma[0] <= self.sigma[1] and self.rows > 0):
            raise ValueError(f"not a recipe for blur: {self}")


@dataclass(frozen=True)
class Reframe(Distort):
    """Like `Distort`, with a resized crop before colour distortion and a blur after it."""

    pad: int = role("pixels", 0)
    """Black pixels added on each side before the padded crop; 0 for none."""
    crop: Crop | None = Crop()
    """Random resized crop; None for none."""
    blur: Blur | None = Blur()
    """Gaussian blur; None for none."""


TRIES = 20
"""Rectangles drawn per image; the first that fits is erased, and none if none fits. The original draws up to 100; with
256 x 128 images and the default recipe all 20 fail once in 1e25."""

_FLIP, _TOP, _LEFT, _ERASE, _ERASE_TOP, _ERASE_LEFT, _TRIES = range(7)
_JITTER = _TRIES + 2 * TRIES
_FACTORS, _ORDER, _GREY = _JITTER + 1, _JITTER + 5, _JITTER + 9
_CACHED = 8
"""Images normalised at once on a CPU: few enough for its cache."""
COLUMNS = 64
"""Numbers drawn per image, used or not: recipes with and without erasing flip and crop alike, and a new transform can
use spare columns without changing the draws of the others."""

CROPS = 10
"""Rectangles drawn per image for a resized crop, as in torchvision."""
_CROP_TOP, _CROP_LEFT, _BLUR, _SIGMA = range(2 * CROPS, 2 * CROPS + 4)
MORE = 2 * CROPS + 4
"""Further numbers drawn per image for `Reframe`, in a table of their own."""


def normalise(images: torch.Tensor, pixels: Pixels = IMAGENET) -> torch.Tensor:
    """Normalise images (B, 3, H, W) of 0 .. 255 by the mean and standard deviation of `pixels`, as float32.

    The result is channels-last in memory, which is fastest for the backbones.
    """
    import torch

    output = torch.empty_like(images, dtype=torch.float32, memory_format=torch.channels_last)
    together = _CACHED if images.is_cpu else max(1, len(images))
    for start in range(0, len(images), together):
        output[start : start + together] = _normalised(images[start : start + together], pixels)
    return output


def augment(images: torch.Tensor, recipe: Augment, generator: torch.Generator) -> torch.Tensor:
    """Flip, crop, distort, blur, normalise and erase each image at random.

    All numbers are drawn on the CPU in one (B, 64) table, so those of image i depend only on the generator's state and
    on i, whatever the batch size and the device.

    Args:
        images: uint8 (B, 3, H, W), on any device.
        recipe: probabilities and strengths.
        generator: a CPU generator, advanced by one table; for `Reframe` by a second one, (B, 24).

    Returns:
        float32 (B, 3, H, W), normalised, channels-last, on the images' device.
    """
    import torch

    count, _, height, width = images.shape
    draws = torch.rand(count, COLUMNS, generator=generator, dtype=torch.float64)
    shift = (draws[:, [_TOP, _LEFT]] * (2 * recipe.pad + 1)).long() - recipe.pad
    flip = (draws[:, [_FLIP]] < recipe.flip).long()
    box = _boxes(draws, recipe.erase, height, width)
    moved = (_shifted if images.is_cpu else _gathered)(images, shift, flip, recipe.pad)
    if isinstance(recipe, Reframe):
        more = torch.rand(count, MORE, generator=generator, dtype=torch.float64)
        moved = _cropped(moved, more, recipe.crop) if recipe.crop else moved
    if isinstance(recipe, Distort) and recipe.colour:
        moved = _distorted(moved, draws, recipe.colour)
    if isinstance(recipe, Reframe) and recipe.blur:
        moved = _blurred(moved, more, recipe.blur)
    output = normalise(moved, recipe.pixels)
    if recipe.erase:
        fill = torch.tensor(recipe.erase.fill, device=images.device).view(3, 1, 1)
        if recipe.erase.when == "before":
            fill = _normalised(fill * 255, recipe.pixels)
        (_fill_slices if images.is_cpu else _fill_masked)(output, box, fill)
    return output


def _shifted(images: torch.Tensor, shift: torch.Tensor, flip: torch.Tensor, pad: int) -> torch.Tensor:
    """Flip and move images one by one, which is fastest on a CPU; `_gathered` moves all at once, for a GPU."""
    import torch

    height, width = images.shape[2:]
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad)) if pad else images
    moved = images.new_empty(images.shape)
    for image, source, (down, right), (mirrored,) in zip(moved, padded, shift.tolist(), flip.tolist(), strict=True):
        top, left = pad + down, pad + (-right if mirrored else right)
        window = source[:, top : top + height, left : left + width]
        image.copy_(window.flip(2) if mirrored else window)
    return moved


def _gathered(images: torch.Tensor, shift: torch.Tensor, flip: torch.Tensor, pad: int) -> torch.Tensor:
    import torch

    count, channels, height, width = images.shape
    device = images.device
    top, left, mirrored = torch.split(torch.cat([shift, flip], 1).to(device), 1, 1)
    rows = torch.arange(height, device=device) + top
    columns = torch.arange(width, device=device) + left
    inside = _both((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    columns = torch.where(mirrored > 0, width - 1 - columns, columns)
    source = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    moved = images.flatten(2).gather(2, source.view(count, 1, -1).expand(-1, channels, -1)).view_as(images)
    return moved * inside


def _fill_slices(output: torch.Tensor, boxes: torch.Tensor, fill: torch.Tensor) -> None:
    """Write the colour `fill` into a box of each image: one by one, for a CPU; `_fill_masked` is for a GPU."""
    for image, (first_row, end_row, first_column, end_column) in zip(output, boxes.tolist(), strict=True):
        if end_row > first_row:
            image[:, first_row:end_row, first_column:end_column] = fill


def _fill_masked(output: torch.Tensor, boxes: torch.Tensor, fill: torch.Tensor) -> None:
    import torch

    height, width = output.shape[2:]
    first_row, end_row, first_column, end_column = torch.split(boxes.to(output.device), 1, 1)
    rows, columns = (torch.arange(side, device=output.device) for side in (height, width))
    erased = _both((rows >= first_row) & (rows < end_row), (columns >= first_column) & (columns < end_column))
    torch.where(erased, fill, output, out=output)


def _both(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Combine masks of rows (B, H) and columns (B, W) by "and": (B, 1, H, W)."""
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _normalised(images: torch.Tensor, pixels: Pixels) -> torch.Tensor:
    import torch

    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (pixels.mean, pixels.std))
    return (images.float() * (1 / (255 * std))).sub_(mean / std)


def _cropped(images: torch.Tensor, draws: torch.Tensor, recipe: Crop) -> torch.Tensor:
    """Crop images (B, 3, H, W) and resize the crops bilinearly to (H, W), as float32."""
    import torch

    height, width = images.shape[2:]
    top, left, rows, columns = _crops(draws, recipe, height, width).to(images.device).unbind(1)

    def weights(first: torch.Tensor, size: torch.Tensor, length: int) -> torch.Tensor:
        places = torch.arange(length, device=images.device)
        centres = first[:, None] + (places + 0.5) * size[:, None] / length - 0.5
        near = (1 - (centres[:, :, None] - places).abs()).clamp(min=0)
        inside = (places >= first[:, None]) & (places < (first + size)[:, None])
        return near * inside[:, None]

    return _combined(images, weights(top, rows, height), weights(left, columns, width))


def _crops(draws: torch.Tensor, recipe: Crop, height: int, width: int) -> torch.Tensor:
    """Compute the rectangles of resized crops (B, 4): first row, first column, rows, columns."""
    import torch

    areas, aspects = draws[:, : 2 * CROPS].view(-1, CROPS, 2).unbind(2)
    areas = _between(recipe.area, areas) * height * width
    aspects = _between((math.log(recipe.aspect[0]), math.log(recipe.aspect[1])), aspects).exp()
    sides = torch.stack([(areas * aspects).sqrt(), (areas / aspects).sqrt()], 2).round().long()
    room = torch.tensor([height, width])
    fits = ((sides > 0) & (sides <= room)).all(2)
    side = sides[torch.arange(len(sides)), fits.long().argmax(1)]
    corner = (draws[:, [_CROP_TOP, _CROP_LEFT]] * (room - side + 1)).long()
    aspect = min(max(height / width, recipe.aspect[0]), recipe.aspect[1])
    largest = torch.tensor([min(height, round(width * aspect)), min(width, round(height / aspect))])
    central = torch.cat([(room - largest) // 2, largest]).expand(len(draws), -1)
    return torch.where(fits.any(1, keepdim=True), torch.cat([corner, side], 1), central)


def _blurred(images: torch.Tensor, draws: torch.Tensor, recipe: Blur) -> torch.Tensor:
    """Blur images (B, 3, H, W), as float32."""
    import torch

    scale = images.shape[2] / recipe.rows
    reach = math.ceil(3 * recipe.sigma[1] * scale)
    sigma = (_between(recipe.sigma, draws[:, _SIGMA]) * scale).float().to(images.device)
    blurred = (draws[:, _BLUR] < recipe.p).to(images.device)

    def weights(length: int) -> torch.Tensor:
        places = torch.arange(length, device=images.device)
        around = torch.arange(-reach, length + reach, device=images.device)
        distance = (places[:, None] - around).abs()
        near = torch.exp(-(distance**2) / (2 * sigma[:, None, None] ** 2)) * (distance <= reach)
        kept = near[:, :, reach : reach + length].clone()
        kept[:, :, 0] += near[:, :, :reach].sum(2)
        kept[:, :, -1] += near[:, :, reach + length :].sum(2)
        return torch.where(blurred[:, None, None], kept, torch.eye(length, device=images.device))

    return _combined(images, weights(images.shape[2]), weights(images.shape[3]))


def _combined(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Average the rows and columns of images (B, 3, H, W) by weights (B, H, H) and (B, W, W), normalised here."""
    rows, columns = (weights / weights.sum(2, keepdim=True) for weights in (rows, columns))
    return rows[:, None] @ images.float() @ columns[:, None].transpose(2, 3)


def _distorted(images: torch.Tensor, draws: torch.Tensor, recipe: Colour) -> torch.Tensor:
    """Distort the colours of images (B, 3, H, W) of 0 .. 255, as float32."""
    import torch

    output = images.float()
    strengths = recipe.brightness, recipe.contrast, recipe.saturation
    ends = [(max(0.0, 1 - strength), 1 + strength) for strength in strengths] + [(-recipe.hue, recipe.hue)]
    changes = _brightened, _contrasted, _saturated, _turned
    jittered = draws[:, _JITTER] < recipe.p
    order = draws[:, _ORDER : _ORDER + len(changes)].argsort(1)
    for turn in range(len(changes)):
        for kind, change in enumerate(changes):
            rows = (jittered & (order[:, turn] == kind)).nonzero().flatten()
            factors = _between(ends[kind], draws[rows, _FACTORS + kind]).to(output).view(-1, 1, 1, 1)
            rows = rows.to(output.device)
            output[rows] = change(output[rows], factors)
    grey = (draws[:, _GREY] < recipe.grey).to(output.device).view(-1, 1, 1, 1)
    return torch.where(grey, _grey(output), output)


def _brightened(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    return (factors * images).clamp(0, 255)


def _contrasted(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    return (factors * images + (1 - factors) * _grey(images).mean((2, 3), keepdim=True)).clamp(0, 255)


def _saturated(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    return (factors * images + (1 - factors) * _grey(images)).clamp(0, 255)


def _turned(images: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """Rotate the hue by fractions (B, 1, 1, 1) of the circle, at constant saturation and value."""
    import torch

    red, green, blue = torch.split(images, 1, 1)
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    divisor = torch.where(chroma > 0, chroma, 1)
    after_red = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(value == red, (green - blue) / divisor, after_red) + 6 * parts  # in sixths of the circle
    place = (torch.tensor([5, 3, 1], device=images.device).view(3, 1, 1) + hue) % 6
    return value - chroma * torch.minimum(place, 4 - place).clamp(0, 1)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Compute the luma (B, 1, H, W) of images (B, 3, H, W)."""
    import torch

    red, green, blue = torch.split(images, 1, 1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _boxes(draws: torch.Tensor, recipe: Erase | None, height: int, width: int) -> torch.Tensor:
    """Compute rectangles to erase (B, 4): first row, end row, first column, end column; empty if nothing is erased."""
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
