"""Losses on features (B, D), logits (B, C) and integer labels (B,). Each returns a scalar, the mean over the batch."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from reproduce.data.sampling import normal


def smoothed_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.1, others: Literal["all", "rest"] = "all"
) -> torch.Tensor:
    """Compute cross-entropy with label smoothing (Szegedy et al., CVPR 2016, section 7).

    Args:
        logits: (B, C).
        labels: (B,), 0 .. C - 1.
        smoothing: the fraction e of the target that is spread evenly.
        others: the classes it is spread over: "all", so the label keeps 1 - e + e / C (Bag of Tricks, MMT), or the
            "rest", so it keeps 1 - e and each other class gets e / (C - 1) (fast-reid).

    Raises:
        ValueError: a label is out of range.
    """
    classes = logits.shape[1]
    _check(labels, classes)
    if others == "rest":
        smoothing *= classes / max(classes - 1, 1)
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def distances(features: torch.Tensor) -> torch.Tensor:
    """Compute Euclidean distances (B, B) between features (B, D).

    Squares are clamped at 1e-12 before the root, so an image is 1e-6 from itself and equal features get no gradient.
    """
    products = features @ features.T
    squares = products.diagonal()
    return (squares[:, None] + squares - 2 * products).clamp(min=1e-12).sqrt()


class Hardest(NamedTuple):
    """Each anchor's farthest image of its identity and nearest image of another: distances and indices."""

    positive: torch.Tensor
    """(B,) distance; the only image of a label is its own positive."""
    negative: torch.Tensor
    """(B,) distance; infinite if there is no image of another label."""
    positive_index: torch.Tensor
    """(B,) position in the batch."""
    negative_index: torch.Tensor
    """(B,) position in the batch."""


def hardest(distances: torch.Tensor, labels: torch.Tensor) -> Hardest:
    """Mine the hardest pairs of a batch from distances (B, B); ties are broken arbitrarily."""
    same = labels[:, None] == labels
    positive, positive_index = distances.masked_fill(~same, -torch.inf).max(1)
    negative, negative_index = distances.masked_fill(same, torch.inf).min(1)
    return Hardest(positive, negative, positive_index, negative_index)


def batch_hard_triplet(
    features: torch.Tensor, labels: torch.Tensor, margin: float | Literal["soft"] = 0.3
) -> torch.Tensor:
    """Compute the triplet loss on each anchor's hardest pairs (Hermans et al., arXiv 1703.07737, equation 5).

    Args:
        features: (B, D), compared as they are (Euclidean distance, no normalisation).
        labels: (B,).
        margin: m in [m + d_ap - d_an]_+, or "soft" for log(1 + exp(d_ap - d_an)).

    Returns:
        The mean over all anchors. One without an image of another label adds 0; one that is alone with its label
        is its own positive, so only its negative moves it.
    """
    pairs = hardest(distances(features), labels)
    excess = pairs.positive - pairs.negative
    return (F.softplus(excess) if margin == "soft" else (margin + excess).relu()).mean()


def soft_cross_entropy(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Compute cross-entropy against the softmax of another network's logits (MMT: Ge et al., ICLR 2020, section 3.2).

    Args:
        logits: (B, C).
        reference: (B, C), the other network's; it gets no gradient.
    """
    return F.cross_entropy(logits, reference.detach().softmax(1))


def soft_triplet(features: torch.Tensor, reference: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute cross-entropy of the softmax over (d_ap, d_an) against another network's (MMT, section 3.2).

    The hardest pairs are mined by the features' own distances; the other network's distances are of the same pairs.
    Where the other network is certain (d_an far above d_ap), this equals `batch_hard_triplet` with margin "soft".

    Args:
        features: (B, D), compared as they are (Euclidean distance, no normalisation).
        reference: (B, D'), the other network's features of the same images; they get no gradient.
        labels: (B,).

    Returns:
        The mean over all anchors. An anchor without an image of another label adds 0.
    """
    pairs = hardest(distances(features), labels)
    valid = pairs.negative < torch.inf
    others = distances(reference.detach())
    anchors = torch.arange(len(labels), device=labels.device)
    wanted = (others[anchors, pairs.positive_index] - others[anchors, pairs.negative_index]).sigmoid()
    excess = (pairs.positive - pairs.negative).masked_fill(~valid, 0)
    return F.binary_cross_entropy_with_logits(excess, wanted, valid.to(excess))


def circle_logits(
    cosines: torch.Tensor, labels: torch.Tensor, scale: float = 64.0, margin: float = 0.35
) -> torch.Tensor:
    """Compute the logits of circle loss with class weights (Sun et al., CVPR 2020, equation 6, as fast-reid has it).

    With the cosine s of an image to a class: scale * [1 + margin - s]_+ (s - (1 - margin)) for the image's class, and
    scale * [s + margin]_+ (s - margin) for the others. The factors [.]_+ get no gradient.

    Args:
        cosines: (B, C).
        labels: (B,), 0 .. C - 1.
        scale: the loss's gamma.
        margin: its m.
    """
    _check(labels, cosines.shape[1])
    fixed = cosines.detach()
    own = (1 + margin - fixed).relu() * (cosines - (1 - margin))
    other = (fixed + margin).relu() * (cosines - margin)
    at = torch.arange(cosines.shape[1], device=labels.device) == labels[:, None]
    return scale * torch.where(at, own, other)


class CentreLoss(nn.Module):
    """Mean squared distance of features to the centre of their class (Wen et al., ECCV 2016, without their 1/2).

    Only the features get a gradient. `step` moves the centres like the separate SGD of the Bag of Tricks code once the
    loss weight is divided out: the weight scales the pull on the features and nothing else.

    Args:
        classes: number of centres.
        dim: their length D.
        seed: seeds the centres, N(0, 1).
    """

    def __init__(self, classes: int, dim: int, *, seed: int) -> None:
        super().__init__()
        self.centres: torch.Tensor
        self.register_buffer("centres", normal((classes, dim), seed, "init", "centres").to(torch.get_default_dtype()))

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the batch mean of ||f - c||^2 for features (B, D) and labels (B,).

        Raises:
            ValueError: a label is out of range.
        """
        _check(labels, len(self.centres))
        return (features - self.centres[labels]).square().sum(1).mean()

    @torch.no_grad()
    def step(self, features: torch.Tensor, labels: torch.Tensor, lr: float = 0.5) -> None:
        """Move the centres towards the batch's features: c <- c - lr * 2 / B * sum over the class of (c - f)."""
        pull = features - self.centres[labels]
        self.centres.index_add_(0, labels, pull, alpha=lr * 2 / len(labels))


def _check(labels: torch.Tensor, classes: int) -> None:
    """Reject labels out of range. On a GPU this is left to torch's assertion, as a check would stall the queue."""
    if labels.device.type == "cpu" and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = labels[(labels < 0) | (labels >= classes)]
        raise ValueError(f"label {int(wrong[0])} is out of range: there are {classes} classes, 0 .. {classes - 1}")
