"""BDB's network: a global branch, and a branch from which the same rows are dropped for a group of images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from methods.blocks.backbones import Bottleneck, initialise
from methods.blocks.heads import Bodied, pool
from reproduce.data.sampling import normal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from methods.blocks.backbones import Backbone


class Branches(NamedTuple):
    """Training outputs of the global branch and the drop branch."""

    features: tuple[torch.Tensor, torch.Tensor]
    """(B, widths[0]) and (B, widths[1]), for metric losses and compared at test time."""
    logits: tuple[torch.Tensor, torch.Tensor]
    """(B, classes) of each."""


def drop_rows(maps: torch.Tensor, places: Sequence[float], height: float) -> torch.Tensor:
    """Set a stripe of maps (B, C, h, w) to 0, the same for all of a group of consecutive images.

    The other values are not rescaled.

    Args:
        maps: the batch, split evenly into groups.
        places: of each group's stripe, 0 (at the top) to below 1, uniform over all rows at which it can start.
        height: of stripes, a fraction of h.
    """
    rows = round(height * maps.shape[2])
    mask = maps.new_ones(len(places), maps.shape[2])
    for group, place in enumerate(places):
        start = int(place * (maps.shape[2] - rows + 1))
        mask[group, start : start + rows] = 0
    return maps * mask.repeat_interleave(len(maps) // len(places), 0)[:, None, :, None]


class BDB(Bodied):
    """Backbone, global branch and drop branch; in evaluation it returns both features, concatenated.

    Global branch: mean over positions -> linear to widths[0], batch normalisation, ReLU. Drop branch: one more
    bottleneck -> `drop_rows` in training -> maximum over positions -> linear to widths[1], batch normalisation, ReLU.
    Each has a linear classifier with bias. Linear layers start as in the published code: normal, with variance
    2 / fan in for the global reduction (a 1x1 convolution there) and 2 / fan out elsewhere, biases 0, scales of the
    normalisations N(1, 0.02).

    Args:
        backbone: maps images (B, 3, H, W) to (B, C, h, w).
        classes: outputs of the classifiers.
        widths: lengths of both features.
        seed: seeds the initial weights of everything else.
    """

    def __init__(self, backbone: Backbone, classes: int, widths: tuple[int, int], *, seed: int) -> None:
        super().__init__(backbone)
        channels = self.channels
        self.bottleneck = Bottleneck(channels, backbone.layer4[0].conv1.out_channels, channels)  # type: ignore[arg-type, union-attr]
        initialise(self.bottleneck, seed, "drop branch")
        self.reductions = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, width), nn.BatchNorm1d(width), nn.ReLU()) for width in widths
        )
        self.classifiers = nn.ModuleList(nn.Linear(width, classes) for width in widths)
        for name, part in self.named_modules():
            if isinstance(part, nn.Linear):
                fan = part.in_features if name == "reductions.0.0" else part.out_features
                part.weight.data = (math.sqrt(2 / fan) * normal(part.weight.shape, seed, "init", name)).float()
                nn.init.zeros_(part.bias)
            elif isinstance(part, nn.BatchNorm1d):
                part.weight.data = (1 + 0.02 * normal(part.weight.shape, seed, "init", name)).float()

    def forward(
        self, images: torch.Tensor, places: Sequence[float] = (), height: float = 0.0
    ) -> Branches | torch.Tensor:
        """Map images (B, 3, H, W) to `Branches` in training, to embeddings (B, sum of widths) in evaluation.

        Args:
            images: the batch.
            places: see `drop_rows`; used in training only.
            height: as `places`.
        """
        maps = self.maps(images)
        dropped = self.bottleneck(maps)
        if self.training:
            dropped = drop_rows(dropped, places, height)
        first, second = (
            reduce(pooled) for reduce, pooled in zip(self.reductions, (pool(maps), dropped.amax((2, 3))), strict=True)
        )
        if not self.training:
            return torch.cat([first, second], 1)
        return Branches((first, second), (self.classifiers[0](first), self.classifiers[1](second)))
