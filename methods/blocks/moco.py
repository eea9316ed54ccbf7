"""Momentum contrast: an encoder with a projection head, queues of keys, and the InfoNCE loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from methods.blocks.contrast import Projection
from methods.blocks.heads import Bodied, body, in_precision, pool
from methods.blocks.norm import group_batch_norm
from reproduce.data.sampling import generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from methods.blocks.backbones import Backbone
    from reproduce.stage import Env


class Encoder(Bodied):
    """Backbone, global average pooling and, in training, projection head and L2 normalisation.

    Args:
        backbone: maps images (B, 3, H, W) to (B, channels, h, w).
        width: length of the projections.
        seed: seeds the initial weights of the head.
    """

    def __init__(self, backbone: Backbone, width: int, *, seed: int) -> None:
        super().__init__(backbone)
        self.head = Projection(self.channels, width, seed=seed)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) to projections (B, width) of length 1; in evaluation to features (B, C)."""
        features = pool(self.maps(images))
        return F.normalize(self.head(features)) if self.training else features


def encoder(recipe: Any, env: Env | None = None) -> Encoder:
    """Build the encoder of a pre-training with its initial weights; arguments as for `methods.blocks.heads.network`."""
    net = group_batch_norm(Encoder(body(recipe, env), recipe.width, seed=recipe.seed), recipe.bn_group)
    return in_precision(net, recipe.precision)


class Queues(nn.Module):
    """Queues of the last keys, one of images and one per patch, that are filled alike.

    Args:
        count: number of queues.
        size: keys per queue.
        width: length of a key.
    """

    keys: torch.Tensor
    """(count, size, width); the first `filled` of each queue count."""
    at: torch.Tensor
    """Place of the next key."""
    filled: torch.Tensor
    """Keys per queue so far, at most `size`."""

    def __init__(self, count: int, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(count, size, width))
        self.register_buffer("at", torch.tensor(0))
        self.register_buffer("filled", torch.tensor(0))

    def negatives(self, number: int) -> torch.Tensor:
        """Return the keys (N, width) of a queue, without those that were never written."""
        return self.keys[number, : int(self.filled)]

    def enqueue(self, keys: torch.Tensor) -> None:
        """Write keys (count, B, width), of length 1, over the oldest ones; B need not divide the size."""
        size, new = self.keys.shape[1], keys.shape[1]
        places = (int(self.at) + torch.arange(new, device=keys.device)) % size
        self.keys[:, places[-size:]] = keys[:, -size:].detach()
        self.at.fill_((int(self.at) + new) % size)
        self.filled.fill_(min(int(self.filled) + new, size))


def info_nce(
    queries: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Compute the InfoNCE loss with one positive (MoCo, equation 1) or several (UP-ReID, equation 10).

    Args:
        queries: (B, D) of length 1.
        positives: (B, P, D) of length 1; the exponentials of all positives of a query are summed inside the logarithm.
        negatives: (N, D) of length 1, for all queries; without any the loss is 0.
        temperature: divisor of the cosines.

    Returns:
        The mean over the batch.
    """
    own = torch.einsum("bd,bpd->bp", queries, positives) / temperature
    others = queries @ negatives.T / temperature
    return (torch.cat([own, others], 1).logsumexp(1) - own.logsumexp(1)).mean()


@torch.no_grad()
def shuffled(
    encode: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, seed: int, *where: str | int
) -> torch.Tensor:
    """Encode images (B, 3, H, W) in random order, and return the keys (B, ...) in the images' order.

    Groups of batch normalisation then hold other images than those of the queries (MoCo's shuffled BN, section 3.3).

    Args:
        encode: maps images in an order to keys in the same order.
        images: the key views.
        seed: the order depends on `seed` and `where` only.
        where: see `seed`.
    """
    order = torch.randperm(len(images), generator=generator(seed, "shuffled", *where)).to(images.device)
    return encode(images[order])[order.argsort()]
