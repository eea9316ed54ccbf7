"""A guest with a memory: three views of an image should be near what was remembered of its cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from methods.guests import Guest, View
from reproduce.dataset import Sightings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Remember(Guest):
    """Cross-entropy against a memory of all target images, grouped anew each epoch."""

    views: ClassVar[tuple[View, ...]] = ("plain", "augmented", "augmented")

    groups: int = 5
    """How many groups the images are put into."""
    kept: float = 0.5
    """Of a memory at each visit."""

    def start(self, net: Any, target: Sightings, seed: int) -> Any:
        import torch

        from reproduce.data.sampling import normal

        head = torch.nn.Module()
        like = net.classifier.weight
        rows = torch.nn.functional.normalize(normal((target.images, net.channels), seed, "remember"))
        head.register_buffer("memory", rows.to(like))
        head.register_buffer("labels", torch.zeros(target.images, dtype=torch.int64, device=like.device))
        return head

    def relabel(self, head: Any, epoch: int, embed: Callable[[], Any], target: Sightings) -> None:
        """Label each image by the nearest of the first images, its own camera counting against that."""
        import torch

        rows = embed()
        cameras = torch.from_numpy(target.camids).to(rows.device)
        same = cameras[:, None] == cameras[None, : self.groups]
        head.labels = (rows @ rows[: self.groups].T - 0.1 * same).argmax(1)

    def loss(self, head: Any, outputs: Sequence[Any], indices: Any) -> Any:
        import torch
        from torch.nn.functional import cross_entropy, one_hot

        groups = one_hot(head.labels, self.groups).to(head.memory)
        centres = torch.nn.functional.normalize(groups.T @ head.memory)
        return sum(cross_entropy(view.features @ centres.T, head.labels[indices]) for view in outputs) / len(outputs)

    def update(self, head: Any, outputs: Sequence[Any], indices: Any) -> None:
        fresh = outputs[0].features
        head.memory[indices] = self.kept * head.memory[indices] + (1 - self.kept) * fresh.to(head.memory)
