"""RAE's networks and losses: decoder, discriminators, factorised bilinear fusion (Yang et al., section III)."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from methods.blocks.backbones import GAN_STD, initialise
from methods.blocks.dropout import Dropout
from methods.blocks.losses import batch_hard_triplet, smoothed_cross_entropy
from reproduce.data.sampling import normal
from reproduce.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from methods.blocks.heads import ReID
    from reproduce.data.transforms import Pixels

VALUES = 3 * 256 * 128
"""Values of an image of the usual input size, for which the norm of equations 12 and 15 is printed."""


def strides(maps: tuple[int, int], images: tuple[int, int], layers: int = 3) -> tuple[int, ...]:
    """Compute the strides by which a decoder gets from the height and width of maps to those of images, largest first.

    16 times gives 4, 2, 2; 8 times 2, 2, 2; 4 times 2, 2, 1.

    Raises:
        UserError: the ratios differ, or are no power of two.
    """
    ratio, rest = divmod(images[0], maps[0])
    if rest or maps[1] * ratio != images[1] or ratio & (ratio - 1):
        raise UserError(
            f"no decoder gets from maps of {maps[0]} x {maps[1]} to images of {images[0]} x {images[1]}: "
            "give an input size that is the maps' times a power of two"
        )
    doublings, more = divmod(ratio.bit_length() - 1, layers)
    return tuple(2 ** (doublings + (layer < more)) for layer in range(layers))


class Decoder(nn.Sequential):
    """Three transposed convolutions, with batch normalisation and ReLU after all but the last, and tanh (section IV.B).

    Maps (B, channels, h, w) -> images (B, 3, H, W) between -1 and 1. The kernel of stride s is 2 s, and 3 for stride 1.

    Args:
        channels: of the maps.
        widths: channels after the first and the second layer.
        strides: of the three layers; their product is H / h.
        seed: seeds the initial weights.
    """

    def __init__(self, channels: int, widths: Sequence[int], strides: Sequence[int], *, seed: int) -> None:
        outputs = (*widths, 3)
        layers: list[nn.Module] = []
        for inputs, output, stride in zip((channels, *widths), outputs, strides, strict=True):
            kernel, padding = (3, 1) if stride == 1 else (2 * stride, stride // 2)
            last = len(layers) == 3 * len(widths)
            layers.append(nn.ConvTranspose2d(inputs, output, kernel, stride, padding, bias=last))
            layers += [nn.Tanh()] if last else [nn.BatchNorm2d(output), nn.ReLU(inplace=True)]
        super().__init__(*layers)
        initialise(self, seed, "decoder", std=GAN_STD)
        self.to(memory_format=torch.channels_last)


class Discriminator(nn.Module):
    """Three convolutions of stride 2 with leaky ReLU, and a linear layer to one logit (section IV.B).

    Maps or images (B, channels, h, w) -> logits (B,) of "from the source". Each layer halves height and width, rounded
    up, so maps of any size pass.

    Args:
        channels: of the input.
        widths: channels after each layer.
        size: height and width of the input.
        seed: seeds the initial weights.
        name: distinguishes the weights of several discriminators.
    """

    def __init__(self, channels: int, widths: Sequence[int], size: tuple[int, int], *, seed: int, name: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        height, width = size
        for inputs, output in zip((channels, *widths), widths, strict=False):
            layers += [nn.Conv2d(inputs, output, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
            height, width = -(-height // 2), -(-width // 2)
        self.layers = nn.Sequential(*layers)
        self.logit = nn.Linear(widths[-1] * height * width, 1)
        initialise(self, seed, name, std=GAN_STD)
        self.to(memory_format=torch.channels_last)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Compute logits (B,)."""
        logits: torch.Tensor = self.logit(self.layers(maps).flatten(1))
        return logits.squeeze(1)


class Fusion(nn.Module):
    """Factorised bilinear pooling of two maps, averaged over all positions (equation 19, algorithm 2).

    z = Q^T (U^T F1 o V^T F2) at each position. As averaging and Q are both linear, Q comes last.

    Args:
        channels: c of both maps, and o of the output.
        d: dimension of the joint embedding.
        seed: seeds the initial weights.
    """

    def __init__(self, channels: int, d: int, *, seed: int) -> None:
        super().__init__()
        self.U = nn.Linear(channels, d, bias=False)
        self.V = nn.Linear(channels, d, bias=False)
        self.Q = nn.Linear(d, channels, bias=False)
        initialise(self, seed, "fusion")

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Fuse maps (B, c, h, w) and (B, c, h, w) into features (B, c)."""
        first, second = (maps.permute(0, 2, 3, 1).flatten(1, 2) for maps in (first, second))
        fused: torch.Tensor = self.Q((self.U(first) * self.V(second)).mean(1))
        return fused


class Classifier(nn.Linear):
    """AlignGAN's classifier of pooled features (B, channels): dropout, linear, normalisation, leaky ReLU, linear.

    Args:
        channels: of the features.
        width: of the hidden layer.
        classes: number of logits; their layer starts from N(0, 0.001).
        dropout: probability of dropout (section IV.B).
        seed: seeds the initial weights.
        name: distinguishes the weights of several classifiers.
    """

    def __init__(self, channels: int, width: int, classes: int, dropout: float, *, seed: int, name: str) -> None:
        super().__init__(width, classes, bias=False)
        self.hidden = nn.Sequential(
            Dropout(dropout), nn.Linear(channels, width, bias=False), nn.BatchNorm1d(width), nn.LeakyReLU(0.1)
        )
        initialise(self.hidden, seed, name)
        with torch.no_grad():
            self.weight.copy_(0.001 * normal(self.weight.shape, seed, "init", f"{name}.weight"))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, classes)."""
        return super().forward(self.hidden(features))


class RAE(nn.Module):
    """An encoder and the parts that are trained around it; those that a training does not use are None.

    Args:
        encoder: gives maps; its classifier is the source's.
    """

    def __init__(self, encoder: ReID) -> None:
        super().__init__()
        self.encoder = encoder
        self.clusters: Any = None
        """The target's classifier of pooled features, or a guest's module."""
        self.fused: Any = None
        """The source's classifier of fused features."""
        self.fused_clusters: Any = None
        """The target's classifier of fused features, or a guest's module."""
        self.restyle: Any = None
        """Maps, or images between -1 and 1, to images in the source's style between -1 and 1."""
        self.fusion: Any = None
        self.of_maps: Any = None
        self.of_images: Any = None

    def pair(
        self, images: torch.Tensor, pixels: Pixels, restyled: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the maps of images (B, 3, H, W), and those of the same images in the source's style (equation 20).

        Args:
            images: normalised.
            pixels: the statistics that they are normalised by.
            restyled: the second images, normalised, if they are known already.
        """
        maps = self.encoder.maps(images)
        if restyled is None:
            restyled = from_range(self.restyled(images, maps, pixels), pixels)
        return maps, self.encoder.maps(restyled)

    def restyled(self, images: torch.Tensor, maps: torch.Tensor, pixels: Pixels) -> torch.Tensor:
        """Return images (B, 3, H, W) in the source's style, between -1 and 1, by their maps or by a translator."""
        given = maps if isinstance(self.restyle, Decoder) else to_range(images, pixels)
        made: torch.Tensor = self.restyle(given)
        return made

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Put encoder and decoder in evaluation mode, whose statistics are those of a test, within the context."""
        parts = [part for part in (self.encoder.backbone, self.restyle) if part]
        for part in parts:
            part.eval()
        yield
        for part in parts:
            part.train()


class Fused(nn.Module):
    """The network under test with fusion (algorithm 2): normalised images (B, 3, H, W) -> features (B, c)."""

    def __init__(self, net: RAE, pixels: Pixels) -> None:
        super().__init__()
        self.net, self.pixels = net, pixels
        self.mixed = net.encoder.mixed

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Fuse the maps of images with those of the images in the source's style."""
        fused: torch.Tensor = self.net.fusion(*self.net.pair(images, self.pixels))
        return fused

    def restyled(self, images: torch.Tensor) -> torch.Tensor:
        """Return normalised images (B, 3, H, W) in the source's style, between -1 and 1."""
        return self.net.restyled(images, self.net.encoder.maps(images), self.pixels)


@torch.no_grad()
def size_of_maps(encoder: ReID, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an encoder's maps of images of a size; the encoder is then in evaluation mode."""
    blank = torch.zeros(1, 3, *size).to(encoder.classifier.weight)
    height, width = encoder.eval().maps(blank).shape[2:]
    return height, width


def to_range(images: torch.Tensor, pixels: Pixels) -> torch.Tensor:
    """Convert images (B, 3, H, W) from normalised values to -1 .. 1."""
    mean, std = _statistics(images, pixels)
    return 2 * (images * std + mean) - 1


def from_range(images: torch.Tensor, pixels: Pixels) -> torch.Tensor:
    """Convert images (B, 3, H, W) from -1 .. 1 to normalised values, channels-last."""
    mean, std = _statistics(images, pixels)
    return (((images + 1) / 2 - mean) / std).contiguous(memory_format=torch.channels_last)


def _statistics(images: torch.Tensor, pixels: Pixels) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (pixels.mean, pixels.std))
    return mean, std


def reconstruction(images: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
    """Compute the mean over images (B, 3, H, W) of || I - I^ ||_2 (equations 12 and 15).

    The norm grows with the root of the number of values, so it is multiplied by the root of 98,304 over that number:
    at 256 x 128 it is the printed one, and smaller images weigh the same against the other losses.
    """
    difference = (images - decoded).flatten(1)
    mean: torch.Tensor = difference.norm(dim=1).mean()
    return math.sqrt(VALUES / difference.shape[1]) * mean


def log_loss(logits: torch.Tensor, real: bool) -> torch.Tensor:
    """Compute the mean of -log Dis if `real`, else of -log(1 - Dis), of a discriminator's logits (B,).

    These are the terms of equations 8, 13 and 16 with their signs reversed: as printed, each is unbounded below.
    """
    return F.softplus(-logits if real else logits).mean()


def accuracy(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Compute the percentage of a discriminator's logits that are right, the mean of both kinds."""
    return 50 * ((real > 0).double().mean() + (fake <= 0).double().mean())


def recognition(
    features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weight: float, margin: float
) -> torch.Tensor:
    """Compute cross-entropy plus the weighted triplet loss (equations 2, 5, 22 and 23).

    Args:
        features: (B, D) pooled, for the batch-hard triplet loss, which keeps the hinge that the paper omits.
        logits: (B, classes).
        labels: (B,).
        weight: lambda_tri.
        margin: m.
    """
    return smoothed_cross_entropy(logits, labels, 0.0) + weight * batch_hard_triplet(features, labels, margin)
