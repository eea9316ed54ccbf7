"""SimCLR: two augmented views of an image should be near each other and far from the views of other images.

Paper: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (ICML 2020).
Code: google-research/simclr.
Deviates:
    - It joins another method's training as its objective on unlabelled images (SPTD, table 7), which sets the batch,
      the optimiser and the augmentations; the text says no more than "replace". Its weight there is 1.
    - The loss is the mean over all 2B views, as the paper's algorithm 1 has it. The published code adds the means over
      first and over second views, which is twice that.
    - The head is the two-layer one of the paper on the pooled feature, with biases and without batch normalisation.
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
    """The normalised, temperature-scaled cross-entropy (equation 1), without a memory.

    Attributes:
        temperature: what cosines are divided by. SPTD names none; 0.1 is SimCLR's default, 0.5 its other usual value.
        width: of the projections.
    """

    temperature: float = 0.1
    width: int = 128

    @property
    def detail(self) -> str:
        return f"SimCLR {self.temperature:g}"

    def start(self, net: ReID, target: Sightings, seed: int) -> nn.Module:
        """The projection head."""
        from methods.blocks.contrast import Projection

        return Projection(net.channels, self.width, seed=seed).to(net.classifier.weight)

    def loss(self, head: nn.Module, outputs: Sequence[Output], indices: Tensor) -> Tensor:
        """On features before the neck; who the images are plays no part."""
        from methods.blocks.contrast import nt_xent

        first, second = outputs
        return nt_xent(head(first.features), head(second.features), self.temperature)
