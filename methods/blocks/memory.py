"""Contrastive memories: slots, each the running average of what was seen of an image, a class or a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from methods.blocks.heads import Bodied, pool
from methods.blocks.pooling import GeM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from methods.blocks.backbones import Backbone

STEADY = 1e-6
"""Added by the published SpCL code to the softmax's sum and, again, inside its logarithm."""


class Embedder(Bodied):
    """Backbone, pooling, batch normalisation and L2 normalisation, in training as in evaluation.

    The normalisation's bias is frozen at 0.

    Args:
        backbone: maps images (B, 3, H, W) to (B, channels, h, w).
        gem: whether to pool by `GeM` instead of the mean.
    """

    def __init__(self, backbone: Backbone, *, gem: bool = False) -> None:
        super().__init__(backbone)
        self.gem = GeM() if gem else None
        self.neck = nn.BatchNorm1d(self.channels)
        self.neck.bias.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to embeddings (B, C) of length 1."""
        maps = self.maps(images)
        return F.normalize(self.neck(self.gem(maps) if self.gem else pool(maps)))


def of_target(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of a network with a normalisation per domain as those of a plain one, with the target's."""
    return {name.replace(".target.", "."): value for name, value in weights.items() if ".source." not in name}


def slot_contrast(
    features: torch.Tensor,
    slots: torch.Tensor,
    of_slot: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    *,
    steady: float = STEADY,
) -> torch.Tensor:
    """Compute SpCL's unified contrastive loss (Ge et al., NeurIPS 2020, equation 1).

    The similarity of an image to a label is the mean over the label's slots, of features . slot / temperature. A
    label of several slots is thus compared by their mean, which is not normalised again.

    Args:
        features: (B, D) of length 1.
        slots: (S, D) of length 1; they get no gradient.
        of_slot: (S,) label of each slot; every label 0 .. L - 1 has one.
        labels: (B,) labels of the images.
        temperature: divisor of the cosines; the exponentials of 1 / temperature must fit the features' type.
        steady: see `STEADY`; 0 for plain cross-entropy.

    Returns:
        The mean over the batch.
    """
    counts = torch.bincount(of_slot).to(features)
    similar = features @ slots.detach().T / temperature
    means = features.new_zeros(len(features), len(counts)).index_add(1, of_slot, similar) / counts
    if steady == 0:
        return F.cross_entropy(means, labels)
    powers = means.exp()
    shares = powers / (powers.sum(1, keepdim=True) + steady)
    return -(shares.gather(1, labels[:, None]) + steady).log().mean()


@torch.no_grad()
def update_each(slots: torch.Tensor, at: torch.Tensor, features: torch.Tensor, kept: float) -> None:
    """Move slots towards features one after the other: slot <- kept * slot + (1 - kept) * feature, of length 1.

    Images of one slot follow each other in batch order; this handles all first images of slots at once, then all
    second ones.

    Args:
        slots: (S, D), changed in place.
        at: (B,) slot of each image.
        features: (B, D) of length 1.
        kept: fraction of itself that a slot keeps.
    """
    order = at.argsort(stable=True)
    first, counts = _runs(at)
    turns = torch.empty_like(at)
    turns[order] = torch.arange(len(at), device=at.device) - first.repeat_interleave(counts)
    for turn in range(int(counts.max())):
        now = turns == turn
        slots[at[now]] = F.normalize(kept * slots[at[now]] + (1 - kept) * features[now])


@torch.no_grad()
def update_hardest(slots: torch.Tensor, at: torch.Tensor, features: torch.Tensor, kept: float) -> None:
    """Move each slot once, towards the least similar feature of the batch (Cluster-Contrast).

    Arguments as for `update_each`.
    """
    order = (features * slots[at]).sum(1).argsort(stable=True)
    order = order[at[order].argsort(stable=True)]
    hardest = order[_runs(at)[0]]
    update_each(slots, at[hardest], features[hardest], kept)


def _runs(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return start and length of each slot's run among sorted slots."""
    counts = torch.bincount(at)
    counts = counts[counts > 0]
    return counts.cumsum(0) - counts, counts
