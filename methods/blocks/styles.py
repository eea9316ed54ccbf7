"""Views of images in the styles of several cameras (Zhong et al., "Camera Style Adaptation for Person
Re-identification", CVPR 2018).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from reproduce.data.sampling import generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reproduce.data.images import Images


def in_styles(
    images: Sequence[Images], batches: Sequence[Sequence[int]], views: int, *, seed: int, epoch: int
) -> Iterator[list[torch.Tensor]]:
    """Yield the views of each batch, every one in the style of a random camera; those of an image differ if they can.

    Args:
        images: the same images in the style of each camera.
        batches: positions of images.
        views: number of views.
        seed: seeds the choice.
        epoch: the epoch, which changes it.

    Yields:
        For each view (B, 3, H, W) uint8.
    """
    streams = [of.batches(batches) for of in images]
    for step, styles in enumerate(zip(*streams, strict=True)):
        shown = torch.stack(styles)
        count, rows = shown.shape[:2]
        drawn = torch.rand(rows, count, generator=generator(seed, "styles", epoch, step)).argsort(1)
        yield [shown[drawn[:, view % count].to(shown.device), torch.arange(rows)] for view in range(views)]
