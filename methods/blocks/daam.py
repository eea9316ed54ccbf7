"""DAAM's parts: attention that divides maps between two branches, soft weights of clusters, and its losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from methods.blocks.backbones import initialise
from methods.blocks.heads import ReID, body, classifier, in_precision, pool
from methods.blocks.labels import cluster_means
from methods.blocks.norm import group_batch_norm
from reproduce.clustering import OUTLIER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from methods.blocks.backbones import Backbone
    from reproduce.stage import Env


def resized(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize maps (B, C, h, w) bilinearly to (B, C, height, width), like `F.interpolate` without aligned corners.

    It multiplies by matrices, because the gradient of `F.interpolate` sums in no fixed order on a GPU.
    """

    def along(count: int, wanted: int) -> torch.Tensor:
        unit = torch.eye(count, dtype=maps.dtype, device=maps.device)[None]
        return F.interpolate(unit, wanted, mode="linear")[0]

    rows, columns = along(maps.shape[2], height), along(maps.shape[3], width)
    return torch.einsum("bchw,hy,wx->bcyx", maps, rows, columns).contiguous(memory_format=torch.channels_last)


class Attention(nn.Module):
    """Weigh every channel at every place: maps (B, C, h, w) -> A in (0, 1), of the same shape (figure 3).

    A depthwise separable convolution (3x3 with stride 2, then 1x1 to C / 2 channels), resizing to h x w, and 1x1
    convolutions to C / 16 and to C channels. Batch normalisation and ReLU follow each but the last, which has a sigmoid
    in place of the ReLU.

    Args:
        channels: C.
        seed: seeds the initial weights.
        where: names their random stream.
    """

    def __init__(self, channels: int, *, seed: int, where: str) -> None:
        super().__init__()
        half, few = channels // 2, channels // 16
        with torch.device("meta"):
            self.spatial = nn.Sequential(
                nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False),
                nn.Conv2d(channels, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(inplace=True),
            )
            self.channel = nn.Sequential(
                nn.Conv2d(half, few, 1, bias=False),
                nn.BatchNorm2d(few),
                nn.ReLU(inplace=True),
                nn.Conv2d(few, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.Sigmoid(),
            )
        self.to_empty(device="cpu")
        initialise(self, seed, where)
        self.to(memory_format=torch.channels_last)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Compute A of maps (B, C, h, w)."""
        weights: torch.Tensor = self.channel(resized(self.spatial(maps), *maps.shape[2:]))
        return weights


class Parts(NamedTuple):
    """The maps of both branches, or the weights that make them of F."""

    shared: torch.Tensor
    """(B, C, h, w) A * F (equation 1), or A."""
    specific: torch.Tensor
    """(B, C, h, w) (1 - A) * F (equation 2), or with an attention of its own, A' * F; or 1 - A, or A'."""


class Output(NamedTuple):
    """Training outputs of both branches."""

    shared: torch.Tensor
    """(B, C) f_sh, the pooled shared maps."""
    specific: torch.Tensor
    """(B, C) f_sp, the pooled specific maps."""
    passed: torch.Tensor
    """(B,) the fraction of the backbone's activation that A lets through: sum of f_sh over that of the pooled F."""


class Branches(ReID):
    """Backbone, attention, and a shared and a specific branch; without attention both have the backbone's maps.

    In evaluation it returns the features of the shared branch, which `classifier` classifies by source identity.

    Args:
        backbone: maps images (B, 3, H, W) to (B, C, h, w).
        classes: source identities.
        seed: seeds the initial weights of everything else.
        attention: whether there is an attention.
    """

    clusters: nn.Linear
    """Classifies shared features by pseudo label."""
    domains: nn.Linear
    """Classifies specific features by domain: source 0, target 1."""

    def __init__(self, backbone: Backbone, classes: int, *, seed: int, attention: bool) -> None:
        super().__init__(backbone, classes, seed=seed, neck=False)
        self.attention = Attention(self.channels, seed=seed, where="attention") if attention else None
        self.individual: Attention | None = None

    def extend(self, *, individual: bool, seed: int) -> None:
        """Add the classifiers of clusters and domains and, if `individual`, a second attention for the specific branch.

        Existing optimisers hold none of their weights.
        """
        self.renew_clusters(1, seed=seed)
        self.domains = classifier(self, 2, seed, "domains.weight")
        if individual:
            made = Attention(self.channels, seed=seed, where="individual attention")
            self.individual = made.to(self.domains.weight)

    def renew_clusters(self, count: int, *, seed: int) -> None:
        """Replace the classifier of clusters by a fresh one; existing optimisers do not hold its weight."""
        self.clusters = classifier(self, count, seed, "clusters.weight")

    def weights(self, whole: torch.Tensor) -> Parts:
        """Compute what each branch gets of the backbone's maps (B, C, h, w), between 0 and 1."""
        if self.attention is None:
            return Parts(torch.ones_like(whole), torch.ones_like(whole))
        weights = self.attention(whole)
        return Parts(weights, 1 - weights if self.individual is None else self.individual(whole))

    def divided(self, whole: torch.Tensor) -> Parts:
        """Divide the backbone's maps (B, C, h, w) between the branches."""
        if self.attention is None:
            return Parts(whole, whole)
        shared, specific = self.weights(whole)
        return Parts(shared * whole, specific * whole)

    def parts(self, images: torch.Tensor) -> Parts:
        """Compute the maps of both branches for images (B, 3, H, W)."""
        return self.divided(super().maps(images))

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the shared maps (B, C, h, w) of images (B, 3, H, W)."""
        return self.parts(images).shared

    def passing(self, images: torch.Tensor, part: int = 0) -> torch.Tensor:
        """Compute the mean weight over channels (B, h, w) that a part of images (B, 3, H, W) gets, the shared one."""
        return self.weights(super().maps(images))[part].mean(1)

    def forward(self, images: torch.Tensor) -> Any:
        """Map images (B, 3, H, W) to `Output` in training, to the shared features (B, C) in evaluation."""
        if not self.training:
            return pool(self.maps(images))
        whole = super().maps(images)
        shared, specific = map(pool, self.divided(whole))
        return Output(shared, specific, (shared.sum(1) / pool(whole).sum(1)).detach())


class Specific(nn.Module):
    """The specific branch of a network alone: images (B, 3, H, W) -> f_sp (B, C)."""

    def __init__(self, net: Branches) -> None:
        super().__init__()
        self.net = net

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the specific maps (B, C, h, w) of images (B, 3, H, W)."""
        return self.net.parts(images).specific

    def passing(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the mean weight over channels (B, h, w) that the specific part of images (B, 3, H, W) gets."""
        return self.net.passing(images, part=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pool the specific maps of images (B, 3, H, W)."""
        return pool(self.maps(images))


def network(recipe: Any, classes: int, env: Env | None = None) -> Branches:
    """Build the network of a source training with its initial weights; arguments as for `heads.network`."""
    net = Branches(body(recipe, env), classes, seed=recipe.seed, attention=recipe.attention)
    in_precision(group_batch_norm(net, recipe.bn_group), recipe.precision)
    return net


def soft_weights(
    features: torch.Tensor, labels: NDArray[np.int64], *, epsilon: float = 0.9, floor: float = 0.01
) -> torch.Tensor:
    """Compute each image's weight of every cluster: 1 / (K d^2), and epsilon more for its own cluster (equation 4).

    d is the Euclidean distance to the mean of the cluster's features. Weights depend on the features' scale: with
    doubled features all but epsilon are a quarter.

    Args:
        features: (N, D), compared as they are.
        labels: (N,) 0 .. K - 1, or -1 for outliers.
        epsilon: smallest weight of the assigned cluster.
        floor: squared distances are at least this fraction of the mean over all labelled images and clusters, so an
            image at a centre gets a finite weight.

    Returns:
        (N, K) in the features' type; outliers have zeros.
    """
    known = torch.from_numpy(labels != OUTLIER).to(features.device)
    points = features.double()
    centres = cluster_means(points, labels)
    squares = torch.cdist(points[known], centres).square()
    tails = 1 / (len(centres) * squares.clamp(min=floor * float(squares.mean())))
    own = torch.from_numpy(labels).to(features.device)[known]
    weights = torch.zeros(len(points), len(centres), dtype=points.dtype, device=points.device)
    weights[known] = tails + epsilon * F.one_hot(own, len(centres)).to(tails)
    return weights.to(features.dtype)


def smoothed_weights(labels: NDArray[np.int64], smoothing: float, like: torch.Tensor) -> torch.Tensor:
    """Compute weights (N, K) of labels (N,): 1 - e for the own cluster and e / K for each; outliers have zeros.

    Args:
        labels: (N,) 0 .. K - 1, or -1 for outliers.
        smoothing: e.
        like: a tensor of the wanted type and device.
    """
    own = torch.from_numpy(labels).to(like.device)
    clusters = int(labels.max()) + 1
    hard = F.one_hot(own.clamp(min=0), clusters).to(like)
    return torch.where(own[:, None] == OUTLIER, 0, (1 - smoothing) * hard + smoothing / clusters)


def soft_label_cross_entropy(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute each image's - sum over k of w_k log p_k (equation 5).

    Args:
        logits: (B, K).
        weights: (B, K), of any sum.

    Returns:
        (B,).
    """
    return F.cross_entropy(logits, weights, reduction="none")


def domain_cross_entropy(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute each image's cross-entropy with its domain (equation 6).

    Args:
        source: (S, 2) logits of source images, class 0.
        target: (T, 2) logits of target images, class 1.

    Returns:
        (S + T,).
    """
    labels = torch.tensor([0] * len(source) + [1] * len(target), device=source.device)
    return F.cross_entropy(torch.cat([source, target]), labels, reduction="none")
