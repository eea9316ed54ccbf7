"""MMCL's memory, label prediction and loss (Wang and Zhang, "Unsupervised Person Re-identification via Multi-label
Classification", CVPR 2020).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

CELLS = 2**24
"""Most similarities that label prediction holds at a time, if those of a batch are fewer."""
BESIDE = 16
"""Candidates that label prediction checks at a time: all after the first inconsistent one are in vain."""


class Memory(nn.Module):
    """One slot per image, all zero before the first visit (section 3.2).

    Args:
        images: number of slots.
        channels: length of features and slots.
        neck: whether to normalise features over the batch first, by mean and standard deviation.
    """

    slots: torch.Tensor
    """(N, D) of length 1 where visited."""
    epoch: torch.Tensor
    """() the epoch in progress, from 0."""

    def __init__(self, images: int, channels: int, *, neck: bool) -> None:
        super().__init__()
        self.neck = neck
        self.register_buffer("slots", torch.zeros(images, channels))
        self.register_buffer("epoch", torch.tensor(0))

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Convert features (B, D) to embeddings of length 1."""
        return F.normalize(F.batch_norm(features, None, None, training=True) if self.neck else features)


@torch.no_grad()
def predict(slots: torch.Tensor, indices: torch.Tensor, threshold: float = 0.6, least: int = 10) -> torch.Tensor:
    """Predict which images show the same person (MPLP, section 3.1).

    An image's candidates are its k most similar slots, itself first, where k is the number of similarities above the
    threshold, but at least `least`. They are taken in order as long as the image is among the k + 1 most similar of the
    candidate. That prefix, extended to two, is positive as far as its similarities exceed the threshold; so is the
    image itself.

    Args:
        slots: (N, D).
        indices: (B,) images to predict for.
        threshold: t, of similarities.
        least: smallest k.

    Returns:
        (B, N) booleans.
    """
    similar = slots[indices] @ slots.T
    above = (similar > threshold).sum(1)
    most = above.clamp(min=least).clamp(max=len(slots))
    similar = similar.scatter(1, indices[:, None], torch.inf)
    order = similar.sort(dim=1, descending=True, stable=True).indices[:, : int(most.max())]

    places = torch.arange(order.shape[1], device=slots.device)
    consistent = torch.zeros_like(order, dtype=torch.bool)
    going = torch.ones_like(indices, dtype=torch.bool)
    for part in torch.split(places, max(1, min(BESIDE, CELLS // similar.numel()))):
        rows, columns = (going[:, None] & (part < most[:, None])).nonzero(as_tuple=True)
        if not len(rows):
            break
        columns = part[columns]
        theirs = slots[order[rows, columns]] @ slots.T
        rank = (theirs > theirs.gather(1, indices[rows, None])).sum(1)
        consistent[rows, columns] = rank <= most[rows]
        going &= consistent[:, part].all(1)
    length = torch.minimum(consistent.long().cumprod(1).sum(1).clamp(min=2), above)
    positives = torch.zeros_like(similar, dtype=torch.bool)
    positives.scatter_(1, order, places < length[:, None])
    return positives.scatter(1, indices[:, None], True)


def multi_label_loss(
    similarities: torch.Tensor, positives: torch.Tensor, delta: float = 5.0, hardest: float = 0.01
) -> torch.Tensor:
    """Compute the memory-based multi-label classification loss (equation 6 with hard negatives).

    For each image delta * mean of (1 - s)^2 over its positives, plus the mean of (1 + s)^2 over its hardest negatives;
    the mean over the batch.

    Args:
        similarities: s (B, N) of embeddings and slots, between -1 and 1.
        positives: (B, N) booleans, at least one per image.
        delta: weight of the positives.
        hardest: fraction r of the negatives, rounded down, at least one, that are hardest.
    """
    pull = ((1 - similarities).square() * positives).sum(1) / positives.sum(1)
    negatives = (~positives).sum(1)
    counts = torch.minimum((hardest * negatives.double()).long().clamp(min=1), negatives)
    worst = similarities.masked_fill(positives, -torch.inf).topk(int(counts.max()), dim=1).values
    chosen = torch.arange(worst.shape[1], device=worst.device) < counts[:, None]
    push = ((1 + worst.masked_fill(~chosen, -1)).square()).sum(1) / counts.clamp(min=1)
    return (delta * pull + push).mean()
