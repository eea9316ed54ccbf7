"""Pseudo labels (N,) of unlabelled images: normalise features, select clusters, measure labels. Outliers are -1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from reproduce.artifacts import Training, snapshot
from reproduce.clustering import OUTLIER

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Labels: TypeAlias = NDArray[np.int64]

STEADY = 1e-6
"""Added to every standard deviation, so a camera's only image, or a constant feature, becomes 0."""


class PseudoLabels(NamedTuple):
    """Pseudo labels of N images, with the vectors they were clustered by."""

    embeddings: Tensor
    """(N, D) vectors that were clustered."""
    raw: Labels
    """(N,) labels as clustered."""
    kept: Labels
    """(N,) labels to train on; images of dropped clusters are outliers."""
    eps: float | None
    """DBSCAN's eps; None if another clustering made the labels."""


def normalised_by_camera(features: Tensor, camids: Sequence[int]) -> Tensor:
    """Normalise features (N, D) per camera and dimension: subtract the mean, divide by the standard deviation.

    MSPLR, equation 4, with the population standard deviation (over n, not n - 1).
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
    """Drop clusters of fewer than `least` images or of one camera (MSPLR, section 3.4)."""
    cameras = np.asarray(camids)
    kept = [
        label
        for label in np.unique(labels[labels != OUTLIER])
        if (labels == label).sum() >= least and len(np.unique(cameras[labels == label])) > 1
    ]
    return renumbered(np.where(np.isin(labels, kept), labels, OUTLIER))


def renumbered(labels: Labels) -> Labels:
    """Renumber labels as 0, 1, ... in the same order, leaving outliers as they are."""
    numbered = np.full(len(labels), OUTLIER, np.int64)
    clustered = labels != OUTLIER
    numbered[clustered] = np.unique(labels[clustered], return_inverse=True)[1]
    return numbered


def health(
    raw: Labels, kept: Labels, pids: Sequence[int], *, before: Labels | None = None, eps: float | None = None
) -> dict[str, float]:
    """Measure pseudo labels, before and after cluster selection.

    Args:
        raw: labels as clustered.
        kept: labels that are trained on.
        pids: true identities, which only measure the labels; negative if unknown.
        before: labels trained on in the previous step; None in the first.
        eps: DBSCAN's; None for another clustering.

    Returns:
        `outliers`: images outside all raw clusters; `found`: number of raw clusters; `clusters`: number of kept
        clusters; `median` and `largest`: their sizes in images; `portion`: percent of all images in them; if identities
        are known, `purity`: percent of these that have the most common identity of their cluster, and `together`:
        percent of the pairs of these with one identity that share a cluster, without which pure clusters may be one for
        each camera; `eps`, if given; and `agreement` with `before`, if given.
    """
    from sklearn.metrics.cluster import pair_confusion_matrix

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
    identified = (kept != OUTLIER) & (people >= 0)
    if identified.any():
        commonest = sum(
            np.unique(people[identified & (kept == label)], return_counts=True)[1].max()
            for label in np.unique(kept[identified])
        )
        values["purity"] = 100 * float(commonest / identified.sum())
        apart, together = pair_confusion_matrix(people[identified], kept[identified])[1]
        if apart + together:
            values["together"] = 100 * float(together / (apart + together))
    if eps is not None:
        values["eps"] = eps
    if before is not None:
        values["agreement"] = agreement(before, kept)
    return values


def by_step(state: Any, steps: int) -> Training:
    """Collect the network of every step of labelling and training; steps skipped by an early end get the last network.

    Args:
        state: `net`; the last `labels` (N,); and by moment ("step 1") the `health` of the labels, the `kept` weights
            and their `mAP` on the target.
        steps: number of steps.

    Returns:
        Moments "step 1" and so on, "last" and "best on target"; with fewer than two clusters left, "collapsed" among
        the health of the skipped steps.
    """
    best = max(state.mAP, key=state.mAP.get, default="last")
    moments = [f"step {step + 1}" for step in range(steps)]
    reached = list(state.health)[-1]
    ended = dict(state.health[reached])
    if state.labels.max() < 1:
        ended["collapsed"] = (
            f"{ended['clusters']:.0f} of {ended['found']:.0f} clusters left at {reached}, "
            f"{ended['outliers']:.0f} of {len(state.labels)} images outliers"
        )
    weights = snapshot(state.net)
    checkpoints = {moment: state.kept.get(moment, weights) for moment in moments}
    health = {moment: state.health[moment] if moment in state.kept else ended for moment in moments}
    checkpoints |= {"last": weights, "best on target": checkpoints.get(best, weights)}
    health |= {"last": health[moments[-1]], "best on target": health.get(best, ended)}
    return Training(checkpoints, {"health": health})


def cluster_means(features: Tensor, labels: Labels) -> Tensor:
    """Average features (N, D) over the images of each label: (K, D) for labels 0 .. K - 1."""
    import torch

    own = torch.from_numpy(labels).to(features.device)
    return torch.stack([features[own == label].mean(0) for label in range(int(labels.max()) + 1)])


def health_of_positives(positives: Tensor, indices: Tensor, pids: Tensor) -> dict[str, Tensor]:
    """Measure which images count as the same person as those of a batch.

    Args:
        positives: (B, N) booleans.
        indices: (B,) images of the batch.
        pids: (N,) true identities, negative if unknown.

    Returns:
        `positives`: mean number of positives of an image, itself included; if identities are known, `purity`: percent
        of them that show the same person.
    """
    values = {"positives": positives.sum().double() / len(indices)}
    if not bool((pids < 0).any()):
        values["purity"] = 100 * (positives & (pids[indices, None] == pids)).sum().double() / positives.sum()
    return values


def alone(labels: Labels) -> Labels:
    """Make every outlier a cluster of its own."""
    return np.where(labels == OUTLIER, len(labels) + np.arange(len(labels)), labels)


class Reliable(NamedTuple):
    """Pseudo labels of N images after selection by reliability."""

    labels: Labels
    """(N,) labels 0, 1, ...; images that were dropped, or left alone in their cluster, are outliers."""
    threshold: float | None
    """Largest independence distance of a reliable cluster; None if no cluster has been found to set it by."""


def reliable(
    labels: Labels, tight: Labels, loose: Labels, threshold: float | None = None, share: float = 0.9
) -> Reliable:
    """Keep images whose clusters change little with eps (SpCL: Ge et al., NeurIPS 2020, section 3.3 and their code).

    With the Jaccard distance of an image's cluster to its cluster at a looser eps (independence) and at a tighter eps
    (compactness), outliers counting as clusters of one: an image keeps its label if the smallest independence distance
    in its cluster is at most the threshold, and its own compactness distance is the smallest in its cluster.

    Args:
        labels: (N,) labels at eps.
        tight: (N,) labels at a smaller eps.
        loose: (N,) labels at a larger eps.
        threshold: from an earlier epoch; None to set it by these labels.
        share: fraction of the clusters below the threshold: of n in ascending order, it is the one at position
            min(n - 1, round(share * n)), counted from 0.
    """
    own, tighter, looser = (alone(each) for each in (labels, tight, loose))
    number, sizes = np.unique(own, return_inverse=True, return_counts=True)[1:]
    compactness, independence = 1 - _overlap(own, tighter), 1 - _overlap(own, looser)
    most_compact, most_independent = np.full((2, len(sizes)), np.inf)
    np.minimum.at(most_compact, number, compactness)
    np.minimum.at(most_independent, number, independence)
    if threshold is None and (clusters := np.sort(most_independent[sizes > 1])).size:
        threshold = float(clusters[min(len(clusters) - 1, round(share * len(clusters)))])
    if threshold is None:
        return Reliable(np.full(len(labels), OUTLIER), None)
    kept = (most_independent[number] <= threshold) & (compactness <= most_compact[number])
    left = np.bincount(number, kept, len(sizes))[number] > 1
    return Reliable(renumbered(np.where(kept & left, labels, OUTLIER)), threshold)


def _overlap(first: Labels, second: Labels) -> NDArray[np.float64]:
    """Compute the intersection over union (N,) of each image's clusters in two labellings without outliers."""

    def size(of: Labels) -> NDArray[np.int64]:
        _, number, counts = np.unique(of, axis=-1, return_inverse=True, return_counts=True)
        return np.asarray(counts[number.ravel()])

    both = size(np.stack([first, second]))
    overlap: NDArray[np.float64] = both / (size(first) + size(second) - both)
    return overlap


def batch_identities(labels: Labels, P: int, K: int, group: int | None) -> int:
    """Count the pseudo identities per camera-aware batch: at most P, and 0 if fewer than two fill a batch.

    Args:
        labels: (N,).
        P: identities per batch if there are enough.
        K: images per identity; one that has a single image gives only that.
        group: images that share batch statistics, of which a batch holds whole groups; None for P x K.
    """
    counts = np.bincount(labels[labels != OUTLIER])
    images = int(np.where(counts > 1, K, 1).sum())
    most = min(P, len(counts), images // K)
    group = group or P * K
    return next((fewer for fewer in range(most, 1, -1) if group >= fewer * K or fewer * K % group == 0), 0)


def agreement(first: Labels, second: Labels) -> float:
    """Compute the adjusted Rand index of two labellings over the images that are outliers in neither.

    1 if they are equal; 0 at chance level, and if no image is labelled in both.
    """
    from sklearn.metrics import adjusted_rand_score

    both = (first != OUTLIER) & (second != OUTLIER)
    return float(adjusted_rand_score(first[both], second[both])) if both.any() else 0.0
