"""Contrastive losses and heads for unlabelled images: each image's two views against all other images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from methods.blocks.backbones import initialise
from methods.blocks.heads import classifier

if TYPE_CHECKING:
    from methods.blocks.heads import ReID


def index_classifier(net: ReID, count: int, *, seed: int) -> nn.Linear:
    """Make a classifier of embeddings with one class per image: linear, without bias, from N(0, 0.001)."""
    return classifier(net, count, seed, "index classifier")


def divergence(target: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Compute the Kullback-Leibler divergence of two softmax distributions (SPTD, equation 2).

    Args:
        target: logits (B, C) of R.
        prediction: logits (B, C) of Q.

    Returns:
        The mean over the batch of the sum over j of R(j) log(R(j) / Q(j)). Gradients flow to both.
    """
    return F.kl_div(prediction.log_softmax(1), target.log_softmax(1), reduction="batchmean", log_target=True)


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute SimCLR's NT-Xent loss (Chen et al., ICML 2020, equation 1).

    Args:
        first: (B, D) one view of each image, of any length.
        second: (B, D) the other view.
        temperature: divisor of the cosines.

    Returns:
        The mean over the 2B views. An image's two views are each other's only positive; a view is never its own
        negative.
    """
    rows = F.normalize(torch.cat([first, second]))
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    logits = (rows @ rows.T / temperature).masked_fill(itself, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(rows), device=rows.device).roll(len(first)))


class Projection(nn.Sequential):
    """SimCLR's projection head: linear, ReLU, linear, with biases, channels -> channels -> width.

    It has no normalisation. Weights and biases start as in torch's linear layers, U(-1, 1) over the root of the inputs.
    """

    def __init__(self, channels: int, width: int, *, seed: int) -> None:
        super().__init__(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, width))
        initialise(self, seed, "projection")
