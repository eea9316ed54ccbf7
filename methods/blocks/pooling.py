"""Pooling with a trainable exponent."""

from __future__ import annotations

import torch
from torch import nn

from methods.blocks.heads import pool


class GeM(nn.Module):
    """Pool maps (B, C, h, w) into features (B, C): (mean of x^p)^(1/p), with a trainable p for all channels.

    Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation" (TPAMI 2019), equation 3. Values are
    clamped at 1e-6.

    Args:
        p: initial exponent; 1 is the mean, large ones approach the maximum.
    """

    def __init__(self, p: float = 3.0) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), p))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pool maps (B, C, h, w)."""
        return pool(maps.clamp(min=1e-6).pow(self.p)).pow(1 / self.p)
