"""SimCLR: pull two augmented views of an image together and push them away from the views of other images.

Paper: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (ICML 2020).
Code: google-research/simclr.
Deviates:
    - It is another method's objective on unlabelled images (SPTD, table 7). That method sets batch, optimiser and
      augmentations; SPTD's text only says "replace". Its weight there is 1.
    - The loss is the mean over all 2B views, as in the paper's algorithm 1. The published code adds the mean over first
      views to that over second views, which is twice that.
    - The head is the paper's two-layer one on the pooled feature, with biases and without batch normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from methods.guests import Guest
from reproduce.dataset import Sightings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from methods.blocks.heads import Output, ReID


@dataclass(frozen=True)
class NTXent(Guest):
    """Compute the normalised, temperature-scaled cross-entropy (equation 1), without a memory."""

    temperature: float = 0.1
    """Divisor of the cosines. SPTD names none; 0.1 is SimCLR's default, 0.5 its other usual value."""
    width: int = 128
    """Dimension of the projections."""

    @property
    def detail(self) -> str:
        return f"SimCLR {self.temperature:g}"

    def start(self, net: ReID, target: Sightings, seed: int) -> nn.Module:
        """Make the projection head."""
        from methods.blocks.contrast import Projection

        return Projection(net.channels, self.width, seed=seed).to(net.classifier.weight)

    def loss(self, head: nn.Module, outputs: Sequence[Output], indices: Tensor) -> Tensor:
        """Compute the loss on features before the neck; `indices` are not used."""
        from methods.blocks.contrast import nt_xent

        first, second = outputs
        return nt_xent(head(first.features), head(second.features), self.temperature)
