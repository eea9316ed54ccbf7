"""Guests: losses on unlabelled target images that another method carries along.

A guest is a frozen value in a field of its host. The host opens the images, passes them through its network and steps
its optimiser; the guest says which views it wants and what is lost on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from methods.blocks.heads import Output, ReID
    from reproduce.dataset import Sightings

View = Literal["plain", "augmented"]


class Guest:
    """What a host asks of a guest; a guest is a frozen dataclass that derives from it.

    All that it learns or remembers is in the module that `start` makes: parameters are learnt by the host's optimiser,
    memories and labels are buffers. The host keeps the module in its state, so a killed run goes on with it.
    """

    views: ClassVar[tuple[View, ...]] = ("augmented", "augmented")
    """The views of each image that `loss` takes: as it is, or augmented as the host does it, each by its own draw."""

    @property
    def detail(self) -> str:
        """What tells it from others, in a few words."""
        return type(self).__name__

    def start(self, net: ReID, target: Sightings, seed: int) -> nn.Module:
        """Make what it learns and remembers, on the network's device and in its precision."""
        raise NotImplementedError

    def relabel(self, head: nn.Module, epoch: int, embed: Callable[[], Tensor], target: Sightings) -> None:
        """Label the images anew before an epoch.

        Args:
            head: what `start` made.
            epoch: from 0.
            embed: gives the embeddings (N, D) of all images, of length 1; costs a pass over them.
            target: where and when the images were taken.
        """

    def loss(self, head: nn.Module, outputs: Sequence[Output], indices: Tensor) -> Tensor:
        """The mean over a batch.

        Args:
            head: what `start` made.
            outputs: what the network gives for each of the `views`, in training.
            indices: (B,) which of the images these are, 0 .. N - 1.
        """
        raise NotImplementedError

    def update(self, head: nn.Module, outputs: Sequence[Output], indices: Tensor) -> None:
        """Remember a batch, after the step that it took part in; `outputs` are without gradient."""
