"""MGN's network: three branches of different granularity, eight features."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional as F

from methods.blocks.heads import Bodied
from methods.blocks.pooling import GeM
from methods.blocks.shares import in_shares
from reproduce.data.sampling import normal

if TYPE_CHECKING:
    from methods.blocks.backbones import Backbone

STRIPES = (1, 2, 3)
"""Horizontal stripes of each branch's maps; 1 for the whole alone."""

METRIC = ((0,), (1,), (2,), (3, 4), (5, 6, 7))
"""Features that one triplet loss each compares, concatenated: the whole maps of each branch, and the stripes of the
second and of the third."""


class Granules(NamedTuple):
    """Training outputs of the heads: the whole maps of the three branches, two stripes, three stripes."""

    features: tuple[torch.Tensor, ...]
    """Eight (B, width), for metric losses; at test time they are compared concatenated."""
    cosines: tuple[torch.Tensor, ...]
    """Eight (B, classes), of features and class weights."""


class Head(nn.Module):
    """Trainable pooling, reduction without bias, batch normalisation without bias, and weights of the classes.

    They start as in fast-reid: the reduction normal with variance 2 / width, class weights N(0, 0.01).

    Args:
        channels: of the maps.
        width: length of the feature.
        classes: number of class weights.
        seed: seeds the initial weights.
        number: names their random streams.
    """

    def __init__(self, channels: int, width: int, classes: int, *, seed: int, number: int) -> None:
        super().__init__()
        self.pool = GeM()
        self.reduction = nn.Linear(channels, width, bias=False, device="meta")
        self.neck = nn.BatchNorm1d(width)
        self.neck.bias.requires_grad_(False)

        def drawn(std: float, *shape: int, of: str) -> nn.Parameter:
            return nn.Parameter((std * normal(shape, seed, "init", "heads", number, of)).float())

        self.reduction.weight = drawn((2 / width) ** 0.5, width, channels, of="reduction")
        self.classes = drawn(0.01, classes, width, of="classes")

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, h, w) to features (B, width)."""
        return cast("torch.Tensor", self.neck(self.reduction(self.pool(maps))))

    def cosines(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the cosines (B, classes) of features (B, width) and class weights."""
        return F.linear(F.normalize(features), F.normalize(self.classes))


class MGN(Bodied):
    """Shared layers up to the first block of layer 3, then three copies of the rest, and eight heads.

    The first branch is the backbone's own; the others start as copies of it. The narrow backbone has one block in layer
    3, so its branches are copies of layer 4.

    Args:
        backbone: maps images (B, 3, H, W) to (B, C, h, w).
        classes: number of class weights of each head.
        width: length of each feature.
        seed: seeds the initial weights of the heads.
    """

    def __init__(self, backbone: Backbone, classes: int, width: int, *, seed: int) -> None:
        super().__init__(backbone)
        own = nn.Sequential(*backbone.layer3[1:], *backbone.layer4)
        self.branches = nn.ModuleList(deepcopy(own) for _ in STRIPES[1:])
        heads = len(STRIPES) + sum(stripes for stripes in STRIPES if stripes > 1)
        self.heads = nn.ModuleList(
            Head(backbone.channels, width, classes, seed=seed, number=number) for number in range(heads)
        )

    def freeze_body(self, frozen: bool) -> None:
        """Freeze all but the heads, batch statistics included, or unfreeze it; call it after `train()`."""
        for part in (self.backbone, self.branches):
            part.train(self.training and not frozen).requires_grad_(not frozen)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the maps (B, C, h, w) of the first branch from images (B, 3, H, W)."""
        return self.granules(images)[0]

    def granules(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the maps of images (B, 3, H, W) that the heads see: three of (B, C, h, w), then stripes of them."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            whole = [maps.to(images.dtype) for maps in in_shares(self, self._whole, images)]
        parts = [maps.chunk(stripes, 2) for maps, stripes in zip(whole, STRIPES, strict=True) if stripes > 1]
        return [*whole, *(part for each in parts for part in each)]

    def _whole(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the maps of the three branches."""
        body = self.backbone
        shared = body.layer2(body.layer1(body.maxpool(body.relu(body.bn1(body.conv1(images))))))
        shared = body.layer3[0](shared)
        return [body.layer4(body.layer3[1:](shared)), *(branch(shared) for branch in self.branches)]

    def forward(self, images: torch.Tensor) -> Granules | torch.Tensor:
        """Map images (B, 3, H, W) to `Granules` in training, to embeddings (B, 8 x width) in evaluation."""
        features = tuple(head(maps) for head, maps in zip(self.heads, self.granules(images), strict=True))
        if not self.training:
            return torch.cat(features, 1)
        heads = cast("list[Head]", list(self.heads))
        return Granules(features, tuple(head.cosines(part) for head, part in zip(heads, features, strict=True)))
