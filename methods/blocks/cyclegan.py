"""CycleGAN's networks and losses (Zhu et al., ICCV 2017), for images between -1 and 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from methods.blocks.backbones import GAN_STD, initialise

if TYPE_CHECKING:
    from collections.abc import Sequence


class Residual(nn.Module):
    """Two 3x3 convolutions with reflection padding and instance normalisation, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (_layer(channels, channels, 3, padding=1) for _ in range(2))
        self.layers = nn.Sequential(*first, nn.ReLU(), *second)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        added: torch.Tensor = maps + self.layers(maps)
        return added


class Generator(nn.Sequential):
    """Two convolutions of stride 2, residual blocks, two transposed convolutions, tanh: (B, 3, H, W) -> (B, 3, H, W).

    Args:
        width: channels of the first layer; the blocks have four times as many.
        blocks: number of residual blocks.
        seed: seeds the initial weights.
        name: distinguishes the weights of several generators.
    """

    def __init__(self, width: int, blocks: int, *, seed: int, name: str) -> None:
        up: list[nn.Module] = []
        for inputs, outputs in ((4 * width, 2 * width), (2 * width, width)):
            up += [
                nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1),
                nn.InstanceNorm2d(outputs),
                nn.ReLU(),
            ]
        super().__init__(
            *_layer(3, width, 7, padding=3),
            nn.ReLU(),
            *_layer(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            *_layer(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            *(Residual(4 * width) for _ in range(blocks)),
            *up,
            nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )
        initialise(self, seed, name, std=GAN_STD)


class Discriminator(nn.Sequential):
    """Three 4x4 convolutions of stride 2 and one 3x3 to a logit per patch: (B, 3, H, W) -> (B, 1, H / 8, W / 8).

    Args:
        widths: channels after each layer.
        seed: seeds the initial weights.
        name: distinguishes the weights of several discriminators.
    """

    def __init__(self, widths: Sequence[int], *, seed: int, name: str) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in zip((3, *widths), widths, strict=False):
            norm = [nn.InstanceNorm2d(outputs)] if layers else []
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), *norm, nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))
        initialise(self, seed, name, std=GAN_STD)


def _layer(inputs: int, outputs: int, kernel: int, *, padding: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, padding_mode="reflect")
    return [convolution, nn.InstanceNorm2d(outputs)]


def least_squares(patches: torch.Tensor, real: bool) -> torch.Tensor:
    """Compute the mean of (D - 1)^2 if `real`, else of D^2 (Mao et al., "Least Squares GANs", ICCV 2017)."""
    return (patches - 1 if real else patches).square().mean()


class Translations(NamedTuple):
    """A batch of both domains, translated, and what the generators minimise."""

    as_first: torch.Tensor
    """(B, 3, H, W) translations of images of the second domain, without gradient."""
    as_second: torch.Tensor
    """(B, 3, H, W) translations of images of the first domain, without gradient."""
    adversarial: torch.Tensor
    """Least squares of the discriminators' patches, over both directions."""
    cycle: torch.Tensor
    """Mean absolute difference after a translation there and back (equation 2), over both directions."""
    same: torch.Tensor
    """Mean absolute difference after a translation to the own domain (section 5.2), over both directions."""


class Pair(nn.Module):
    """The generators and discriminators between a first and a second domain."""

    def __init__(self, width: int, blocks: int, widths: Sequence[int], *, seed: int) -> None:
        super().__init__()
        self.forth = Generator(width, blocks, seed=seed, name="forth")
        """First to second."""
        self.back = Generator(width, blocks, seed=seed, name="back")
        """Second to first."""
        self.first = Discriminator(widths, seed=seed, name="first")
        self.second = Discriminator(widths, seed=seed, name="second")
        self.to(memory_format=torch.channels_last)

    def translate(self, first: torch.Tensor, second: torch.Tensor) -> Translations:
        """Translate images (B, 3, H, W) of both domains, and compute the generators' losses."""
        as_second, as_first = self.forth(first), self.back(second)
        return Translations(
            as_first.detach(),
            as_second.detach(),
            least_squares(self.second(as_second), real=True) + least_squares(self.first(as_first), real=True),
            _apart(self.back(as_second), first) + _apart(self.forth(as_first), second),
            _apart(self.back(first), first) + _apart(self.forth(second), second),
        )

    def judge(self, first: torch.Tensor, second: torch.Tensor, made: Translations) -> torch.Tensor:
        """Compute the discriminators' loss on images of both domains and on translations."""
        loss = least_squares(self.first(first), real=True) + least_squares(self.first(made.as_first), real=False)
        other = least_squares(self.second(second), real=True) + least_squares(self.second(made.as_second), real=False)
        return (loss + other) / 2


def _apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one - other).abs().mean()
