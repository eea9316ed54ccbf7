"""Guests: losses on unlabelled target images, computed inside another method's training.

A guest is a frozen dataclass in a field of its host. The host opens the images, passes them through its network and
steps its optimiser; the guest names the views it needs and computes the loss on them.
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
    """Base class of guests, which are frozen dataclasses.

    The module that `start` makes holds everything a guest learns or remembers: the host's optimiser trains its
    parameters; memories and labels are buffers. The host keeps the module in its state, so a killed run resumes it.
    """

    views: ClassVar[tuple[View, ...]] = ("augmented", "augmented")
    """Views of each image for `loss`: unchanged, or augmented by the host with a separate draw for each view."""

    @property
    def detail(self) -> str:
        """Describe it in a few words, to tell it from other guests."""
        return type(self).__name__

    def start(self, net: ReID, target: Sightings, seed: int) -> nn.Module:
        """Make the module of parameters and memories, on the network's device and in its precision."""
        raise NotImplementedError

    def relabel(self, head: nn.Module, epoch: int, embed: Callable[[], Tensor], target: Sightings) -> None:
        """Relabel the images before an epoch.

        Args:
            head: the module from `start`.
            epoch: counted from 0.
            embed: returns the embeddings (N, D) of all images, of length 1, in one pass over them.
            target: where and when the images were taken.
        """

    def loss(self, head: nn.Module, outputs: Sequence[Output], indices: Tensor) -> Tensor:
        """Compute the mean loss of a batch.

        Args:
            head: the module from `start`.
            outputs: the network's training outputs for each of the `views`.
            indices: (B,) positions of the images in the training set, 0 .. N - 1.
        """
        raise NotImplementedError

    def update(self, head: nn.Module, outputs: Sequence[Output], indices: Tensor) -> None:
        """Update memories with a batch after its optimiser step; `outputs` carry no gradient."""


class Labeller(Guest):
    """Base class of guests that label target images, so that a host can learn other features by the same labels.

    A host that has two kinds of features, such as an encoder's and fused ones, starts a module for each, labels the
    images by the first before an epoch and shares these labels, asks it for positives before a step, and passes them to
    both losses.
    """

    def share(self, head: nn.Module, other: nn.Module) -> None:
        """Copy the labels of a module, and whatever else `relabel` changed, to one that remembers other features."""
        raise NotImplementedError

    def positives(self, head: nn.Module, indices: Tensor) -> Tensor:
        """Return which images count as the same person as the images at `indices` (B,): booleans (B, N)."""
        raise NotImplementedError

    def loss(
        self, head: nn.Module, outputs: Sequence[Output], indices: Tensor, positives: Tensor | None = None
    ) -> Tensor:
        """Compute the mean loss of a batch, as `Guest.loss`.

        Args:
            head: see there.
            outputs: see there.
            indices: see there.
            positives: (B, N) of another module of this guest; None for those of `head`.
        """
        raise NotImplementedError

    def health(self, head: nn.Module, pids: Sequence[int]) -> dict[str, float]:
        """Measure the labels of all images, as `methods.blocks.labels.health`; empty if they have none between steps.

        Args:
            head: the module from `start`.
            pids: true identities, used only for purity; negative if unknown.
        """
        return {}
