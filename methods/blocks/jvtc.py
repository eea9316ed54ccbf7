"""JVTC's losses, memory bank and spatio-temporal similarity (Li and Zhang, "Joint Visual and Temporal Consistency for
Unsupervised Domain Adaptive Person Re-Identification", ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from reproduce.clustering import OUTLIER
from reproduce.data.sampling import normal, uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reproduce.dataset import Sightings

SIGMA = 50
"""Standard deviation of the histogram's smoothing, in bins; it is cut at three of them."""

SHARPNESS = 5.0
"""Factor on similarities and probabilities in the joint similarity."""


class Embedding(nn.Sequential):
    """A linear layer to fewer channels, and a batch normalisation whose output is compared at test.

    Args:
        channels: of the pooled features.
        width: of the embedding.
        seed: seeds the weights, N(0, 2 / width).
    """

    def __init__(self, channels: int, width: int, *, seed: int) -> None:
        linear = nn.Linear(channels, width, device="meta")
        linear.weight = nn.Parameter((2 / width) ** 0.5 * normal((width, channels), seed, "init", "embedding.weight"))
        linear.bias = nn.Parameter(torch.zeros(width, dtype=torch.float64))
        super().__init__(linear, nn.BatchNorm1d(width))


class Classifier(nn.Linear):
    """A linear classifier with bias of an embedding's positive part; its weights start from N(0, 0.001)."""

    def __init__(self, width: int, classes: int, *, seed: int) -> None:
        super().__init__(width, classes, device="meta")
        self.weight = nn.Parameter(0.001 * normal((classes, width), seed, "init", "classifier.weight"))
        self.bias = nn.Parameter(torch.zeros(classes, dtype=torch.float64))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, classes)."""
        return super().forward(F.relu(embedding))


class Bank(nn.Module):
    """A memory of every target image, and their labels.

    Args:
        images: number of entries.
        width: of an entry.
        seed: seeds the entries, U(0, 1).
    """

    entries: torch.Tensor
    """(N, D)."""
    labels: torch.Tensor
    """(N,) clusters; at first each image is alone."""
    epoch: torch.Tensor
    """() the epoch in progress, from 1."""

    def __init__(self, images: int, width: int, *, seed: int) -> None:
        super().__init__()
        self.register_buffer("entries", uniform((images, width), seed, "init", "bank"))
        self.register_buffer("labels", torch.arange(images))
        self.register_buffer("epoch", torch.tensor(1))

    @torch.no_grad()
    def visit(self, indices: torch.Tensor, means: torch.Tensor, kept: float, *, unit: bool) -> None:
        """Move entries towards means (B, D), one image after the other: m <- kept * m + (1 - kept) * x.

        Args:
            indices: (B,) entries.
            means: of the views of each image, of length 1.
            kept: fraction of itself that an entry keeps.
            unit: whether the entry is then scaled to length 1.
        """
        for index, mean in zip(indices.tolist(), means, strict=True):
            entry = kept * self.entries[index] + (1 - kept) * mean
            self.entries[index] = F.normalize(entry, dim=0) if unit else entry


def mean_of_views(views: Sequence[torch.Tensor]) -> torch.Tensor:
    """Average the views (B, D) of each image as they are, then scale to length 1."""
    return F.normalize(torch.stack(list(views)).mean(0))


def local_loss(views: Sequence[torch.Tensor], temperature: float = 0.1) -> torch.Tensor:
    """Classify each view of an image among the images of the batch, whose means of views are the classifier.

    Args:
        views: (B, D) each, of any length. Gradients flow to the means too.
        temperature: divisor of the cosines.

    Returns:
        The mean over all views of all images (section 3.2, one-hot labels).
    """
    classifier = mean_of_views(views)
    own = torch.arange(len(classifier), device=classifier.device).repeat(len(views))
    return F.cross_entropy(F.normalize(torch.cat(list(views))) @ classifier.T / temperature, own)


def global_loss(
    views: Sequence[torch.Tensor], entries: torch.Tensor, positives: torch.Tensor, temperature: float = 0.05
) -> torch.Tensor:
    """Classify each view among all entries of a bank, with a target spread evenly over the image's positives.

    Args:
        views: (B, D) each, of any length.
        entries: (N, D), used as they are; they get no gradient.
        positives: (B, N) booleans.
        temperature: divisor of the products.

    Returns:
        The mean over all views of all images (section 3.3, multi-class labels).
    """
    logits = F.normalize(torch.cat(list(views))) @ entries.detach().T / temperature
    target = F.normalize(positives.to(logits), p=1.0)
    return F.cross_entropy(logits, target.repeat(len(views), 1))


# -- time --------------------------------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """Where and when N images were taken."""

    camids: NDArray[np.int64]
    """(N,) cameras, from 0."""
    frames: NDArray[np.int64]
    """(N,) frames that can be compared across sequences, or within one if these are apart."""
    sequences: NDArray[np.int64]
    """(N,) numbers of sequences that are apart from each other; all 0 if there is only one time."""


def offsets(known: Sightings) -> NDArray[np.int64]:
    """Compute where the sequences of each camera begin if they follow each other.

    Args:
        known: training images; test images are placed by the same offsets.

    Returns:
        (cameras, sequences + 1): the sum of the last frames of all earlier sequences of the camera.
    """
    last = np.zeros((known.camids.max() + 1, known.sequences.max() + 2), np.int64)
    np.maximum.at(last, (known.camids, known.sequences + 1), known.frames)
    begins: NDArray[np.int64] = np.cumsum(last, axis=1)[:, :-1]
    return begins


def placed(seen: Any, begins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Shift the frames (N,) of sightings by the `offsets` of their cameras and sequences; unknown ones by the last."""
    camera = seen.camids.clip(0, len(begins) - 1)
    shifted: NDArray[np.int64] = seen.frames + begins[camera, seen.sequences.clip(0, begins.shape[1] - 1)]
    return shifted


def histogram(moments: Moments, labels: NDArray[np.int64], cameras: int, width: int) -> NDArray[np.float64]:
    """Count after how long people of one label were seen by another camera, for each ordered pair of cameras.

    A label seen by two cameras counts once, by its mean frames there. A label with several images from one camera
    counts there with each image's gap to the first, weighted by the number of images. Counts are smoothed by a Gaussian
    and divided by their sum.

    Args:
        moments: N images of one time.
        labels: (N,) labels.
        cameras: number of cameras C.
        width: frames per bin.

    Returns:
        (C, C, T) probabilities by later camera, earlier camera and bin; zero for pairs that no label was seen by. The T
        bins hold the longest gap between any two of these images, and what smoothing adds to it. (The published code
        has 3,000 bins and fails on Market-1501, where gaps reach bin 4,274.)
    """
    from scipy.ndimage import gaussian_filter1d

    camids, frames = moments.camids, moments.frames
    bins = (int(frames.max()) - int(frames.min())) // width + 3 * SIGMA + 1
    counted = np.zeros((cameras, cameras, bins))
    clusters = int(labels.max()) + 1
    place = labels * cameras + camids
    count = np.bincount(place, minlength=clusters * cameras).reshape(clusters, cameras)
    total = np.bincount(place, frames, clusters * cameras).reshape(clusters, cameras)
    mean = total / np.maximum(count, 1)
    for one in range(cameras):
        for other in range(one + 1, cameras):
            both = (count[:, one] > 0) & (count[:, other] > 0)
            gap = mean[both, one] - mean[both, other]
            at = (np.abs(gap) / width).astype(np.int64)
            np.add.at(counted[one, other], at[gap > 0], 1)
            np.add.at(counted[other, one], at[gap <= 0], 1)

    first = np.full(clusters * cameras, np.iinfo(np.int64).max)
    np.minimum.at(first, place, frames)
    several = count.ravel()[place]
    at = ((frames - first[place]) / width).astype(np.int64)
    np.add.at(counted, (camids, camids, at), np.where(several > 1, several, 0))

    smooth: NDArray[np.float64] = gaussian_filter1d(counted, SIGMA, mode="constant", truncate=3.0)
    sums = smooth.sum(2, keepdims=True)
    smooth /= np.where(sums > 0, sums, 1)
    return smooth


def probabilities(times: NDArray[Any], width: int, query: Moments, gallery: Moments) -> NDArray[Any]:
    """Look up the probability (Q, G) of the time between each two images for their cameras, later one first.

    It is 0 beyond the last bin of a `histogram`, for cameras outside it, and between sequences that are apart.
    """
    later = query.frames[:, None] > gallery.frames
    here, there = np.broadcast_arrays(query.camids[:, None], gallery.camids)
    at = (np.abs(query.frames[:, None] - gallery.frames) / width).astype(np.int64)
    cameras, _, bins = times.shape
    known = (at < bins) & (np.maximum(here, there) < cameras) & (query.sequences[:, None] == gallery.sequences)
    place = np.where(later, here, there) % cameras, np.where(later, there, here) % cameras, np.where(known, at, 0)
    found: NDArray[Any] = np.where(known, times[place], 0)
    return found


def joint_distance(similarities: NDArray[Any], chances: NDArray[Any]) -> NDArray[Any]:
    """Compute 1 - 1 / (1 + exp(-5 s)) * 1 / (1 + 2 exp(-5 p)) of similarities s and probabilities p (equation 9)."""
    from scipy.special import expit

    distance: NDArray[Any] = 1 - expit(SHARPNESS * similarities) / (1 + 2 * np.exp(-SHARPNESS * chances))
    return distance


def sequence_by_sequence(sequences: NDArray[np.int64], cluster: Any) -> NDArray[np.int64]:
    """Cluster the images of each sequence for themselves, and number the clusters through.

    Args:
        sequences: (N,).
        cluster: takes the positions of a sequence's images, two or more, and returns their labels.
    """
    labels, following = np.full(len(sequences), OUTLIER), 0
    for sequence in np.unique(sequences):
        own = np.flatnonzero(sequences == sequence)
        labels[own] = following + (cluster(own) if len(own) > 1 else np.zeros(1, np.int64))
        following = int(labels.max()) + 1
    return labels
