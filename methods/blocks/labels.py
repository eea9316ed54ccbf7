"""Pseudo labels (N,) of unlabelled images: features before clustering, clusters after it. Outliers are -1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from reproduce.clustering import OUTLIER

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Labels: TypeAlias = NDArray[np.int64]

STEADY = 1e-6
"""Added to a standard deviation: a camera's only image, or a constant feature, becomes 0."""


def normalised_by_camera(features: Tensor, camids: Sequence[int]) -> Tensor:
    """Features (N, D) less the mean of their camera, over its standard deviation, each dimension by itself.

    MSPLR, equation 4, with the deviation of a population (over n, not n - 1).
    """
    import torch

    cameras = torch.as_tensor(camids, device=features.device)
    normalised = torch.empty_like(features)
    for camera in set(camids):
        own = features[cameras == camera].double()
        own -= own.mean(0)
        normalised[cameras == camera] = (own / (own.square().mean(0).sqrt() + STEADY)).to(features.dtype)
    return normalised


def selected(labels: Labels, camids: Sequence[int], least: int) -> Labels:
    """Labels without the clusters of fewer than `least` images or of one camera (MSPLR, section 3.4)."""
    cameras = np.asarray(camids)
    kept = [
        label
        for label in np.unique(labels[labels != OUTLIER])
        if (labels == label).sum() >= least and len(np.unique(cameras[labels == label])) > 1
    ]
    return renumbered(np.where(np.isin(labels, kept), labels, OUTLIER))


def renumbered(labels: Labels) -> Labels:
    """Labels as 0, 1, ... in the same order, outliers untouched."""
    found = np.full(len(labels), OUTLIER, np.int64)
    named = labels != OUTLIER
    found[named] = np.unique(labels[named], return_inverse=True)[1]
    return found


def health(
    raw: Labels, kept: Labels, pids: Sequence[int], *, before: Labels | None = None, eps: float | None = None
) -> dict[str, float]:
    """What clustering made of the images, and what selection left of it.

    Args:
        raw: labels as clustered.
        kept: labels that are trained on.
        pids: true identities, for the purity alone; negative where nobody knows them.
        before: what was trained on in the step before; None in the first.
        eps: of DBSCAN; None for another clustering.

    Returns:
        `outliers`: images that clustering set aside; `found`: its clusters; `clusters`: those trained on; `median` and
        `largest`: their images; `portion`: percent of all images in them; `purity`: percent of these whose identity is
        the commonest of their cluster; and where they are given `eps` and the `agreement` with the step before.
    """
    counts = np.bincount(kept[kept != OUTLIER])
    values = {
        "found": float(len(np.unique(raw[raw != OUTLIER]))),
        "outliers": float((raw == OUTLIER).sum()),
        "clusters": float(len(counts)),
        "median": float(np.median(counts)) if len(counts) else 0.0,
        "largest": float(counts.max(initial=0)),
        "portion": 100 * float((kept != OUTLIER).mean()),
    }
    people = np.asarray(pids)
    known = (kept != OUTLIER) & (people >= 0)
    if known.any():
        commonest = sum(
            np.unique(people[known & (kept == label)], return_counts=True)[1].max() for label in np.unique(kept[known])
        )
        values["purity"] = 100 * float(commonest / known.sum())
    if eps is not None:
        values["eps"] = eps
    if before is not None:
        values["agreement"] = agreement(before, kept)
    return values


def alone(labels: Labels) -> Labels:
    """Labels with every outlier as a cluster of its own."""
    return np.where(labels == OUTLIER, len(labels) + np.arange(len(labels)), labels)


def agreement(one: Labels, other: Labels) -> float:
    """The adjusted Rand index of two labellings over the images that have a label in both; 1 where they are the same.

    0 is what chance gives, and also where they share no image.
    """
    from sklearn.metrics import adjusted_rand_score

    both = (one != OUTLIER) & (other != OUTLIER)
    return float(adjusted_rand_score(one[both], other[both])) if both.any() else 0.0
