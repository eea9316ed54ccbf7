"""Patches of images, their contrastive loss, and the distances between similarity matrices (UP-ReID)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch.nn import functional as F

from methods.blocks.moco import info_nce
from methods.blocks.norm import larger_groups

if TYPE_CHECKING:
    from methods.blocks.moco import Encoder, Queues

Distance: TypeAlias = Literal["gaussian", "linear", "entries"]
"""Distance of two similarity matrices: squared MMD of their rows with Gaussian kernels or the linear one, or the mean
squared difference of entries."""

BANDWIDTHS = tuple(2.0**power for power in range(-2, 3))
"""Bandwidths of the Gaussian kernels, as multiples of the mean squared distance."""


def cut(images: torch.Tensor, count: int) -> torch.Tensor:
    """Cut images into patches: equal horizontal stripes, each halved.

    Patches 2 i and 2 i + 1 are the left and right half of stripe i. If the stripes are uneven, patches are resized to
    the largest.

    Args:
        images: (B, 3, H, W).
        count: patches per image, M; even.

    Returns:
        (B, M, 3, h, w).
    """
    height, width = images.shape[2:]
    stripes = count // 2
    rows = [round(at * height / stripes) for at in range(stripes + 1)]
    columns = [0, width // 2, width]
    patches = [
        images[:, :, rows[stripe] : rows[stripe + 1], columns[half] : columns[half + 1]]
        for stripe in range(stripes)
        for half in range(2)
    ]
    size = max(patch.shape[2] for patch in patches), max(patch.shape[3] for patch in patches)
    return torch.stack(
        [patch if patch.shape[2:] == size else F.interpolate(patch, size, mode="bilinear") for patch in patches], 1
    )


def encode_patches(encoder: Encoder, images: torch.Tensor, count: int) -> torch.Tensor:
    """Encode the patches of images (B, 3, H, W), in one batch, to (B, M, D).

    The patches of the images of a normalisation group share batch statistics.
    """
    patches = cut(images, count).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    with larger_groups(encoder, count):
        encoded: torch.Tensor = encoder(patches)
    return encoded.view(len(images), count, -1)


def patch_loss(
    queries: torch.Tensor, keys: torch.Tensor, queues: Queues, temperature: float, *, mirrored: bool
) -> torch.Tensor:
    """Compute the patch part of the intrinsic contrastive loss (UP-ReID, equations 8 to 10).

    Args:
        queries: (B, M, D) patches of the query views, of length 1.
        keys: (B, M, D) patches of the key views, of length 1.
        queues: queue 1 + i holds the negatives of patch i.
        temperature: divisor of the cosines.
        mirrored: whether the other half of its stripe is a positive of a patch as well (equation 10), or only the patch
            at its own place (equation 8).

    Returns:
        The mean over patches and batch.
    """
    losses = []
    for place in range(queries.shape[1]):
        positives = [place, place ^ 1] if mirrored else [place]
        losses.append(info_nce(queries[:, place], keys[:, positives], queues.negatives(1 + place), temperature))
    return torch.stack(losses).mean()


def distance(first: torch.Tensor, second: torch.Tensor, kind: Distance) -> torch.Tensor:
    """Compute the distance of two matrices.

    The squared MMD is the biased estimate of Gretton et al. (JMLR 2012), with the rows as samples. Its kernel is a sum
    of Gaussians exp(-d^2 / (b w)): w is the mean squared distance between two of all rows, without gradient, and b one
    of `BANDWIDTHS`.

    Args:
        first: (B, D).
        second: (B, D).
        kind: see `Distance`.
    """
    if kind == "entries":
        return F.mse_loss(first, second)
    if kind == "linear":
        return (first.mean(0) - second.mean(0)).square().sum()
    rows = torch.cat([first, second])
    squares = rows.square().sum(1)
    between = (squares[:, None] + squares - 2 * rows @ rows.T).clamp(min=0)
    width = (between.detach().sum() / (len(rows) * (len(rows) - 1))).clamp(min=torch.finfo(rows.dtype).tiny)
    kernel = torch.stack([torch.exp(-between / (factor * width)) for factor in BANDWIDTHS]).sum(0)
    count = len(first)
    return kernel[:count, :count].mean() + kernel[count:, count:].mean() - 2 * kernel[:count, count:].mean()


def consistency(
    queries: torch.Tensor,
    keys: torch.Tensor,
    plain_queries: torch.Tensor,
    plain_keys: torch.Tensor,
    group: int | None,
    kind: Distance,
) -> torch.Tensor:
    """Compute the consistency loss (UP-ReID, equations 2 to 4).

    Args:
        queries: (B, D) of the query views, of length 1.
        keys: (B, D) of the key views.
        plain_queries: (B, D) of the original images, by the online encoder.
        plain_keys: (B, D) of the original images, by the averaged encoder.
        group: images that are compared with each other; None for all.
        kind: see `Distance`.

    Returns:
        The mean over groups. Gradients flow to `queries` alone.
    """
    size = group or len(queries)
    groups = (torch.split(features, size) for features in (queries, keys, plain_queries, plain_keys))
    losses = [
        distance(q @ k.detach().T, (q_plain @ k_plain.T).detach(), kind)
        for q, k, q_plain, k_plain in zip(*groups, strict=True)
    ]
    return torch.stack(losses).mean()
