"""Divide the images that pass through a network among the ranks of a stage, without changing what is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from methods.blocks.norm import DomainBatchNorm, GroupedBatchNorm
from reproduce import ranks


def in_shares(
    net: nn.Module, compute: Callable[[torch.Tensor], Sequence[torch.Tensor]], images: torch.Tensor
) -> Sequence[torch.Tensor]:
    """Compute what a network makes of images, where each rank computes its share, and return that of all images.

    In training a share is whole groups of batch normalisation, or a part of the one group that is the whole batch,
    whose statistics are then computed over all ranks; running statistics are those of one process. Images that cannot
    be divided so are computed by every rank.

    Args:
        net: its parameters and normalisations are those that `compute` uses.
        compute: maps images to tensors with the batch as first dimension; its outputs depend on the images of a
            normalisation group alone.
        images: (B, 3, H, W).
    """
    if ranks.count() == 1:
        return compute(images)
    moving = [layer for layer in net.modules() if isinstance(layer, _BatchNorm) and layer.training]
    halves = 2 if moving and any(isinstance(layer, DomainBatchNorm) for layer in net.modules()) else 1
    spanning = _spanning(moving, len(images) // halves)
    if len(images) % halves or spanning is None:
        return compute(images)
    call, given = _Call(net, compute), {"images": images}
    if torch.is_grad_enabled():
        given |= dict(call.named_parameters())
        learning = {name: value for name, value in given.items() if value.requires_grad}
        given |= dict(zip(learning, ranks.entering([*learning.values()]), strict=True)) if learning else {}
    images = given.pop("images")
    with _over_ranks(spanning):
        outputs = functional_call(call, given, (ranks.share(images, halves),))
    ranks.follow_first(buffer for layer in moving if layer not in spanning for buffer in layer.buffers(recurse=False))
    return [ranks.gathered(output, halves) for output in outputs]


class _Call(nn.Module):
    """A function that uses a network, as a module, so that its parameters can be exchanged."""

    def __init__(self, net: nn.Module, compute: Callable[[torch.Tensor], Sequence[torch.Tensor]]) -> None:
        super().__init__()
        self.net, self.forward = net, compute


def _spanning(layers: Sequence[_BatchNorm], count: int) -> list[_BatchNorm] | None:
    """Return the normalisations whose group is all of `count` images; None if these cannot be divided."""
    if count % ranks.count() or not count:
        return None
    found = []
    for layer in layers:
        group = layer.group if isinstance(layer, GroupedBatchNorm) else count
        if group >= count:
            found.append(layer)
        elif count // ranks.count() % group:
            return None
    return found


@contextmanager
def _over_ranks(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let normalisations compute their statistics over all ranks, within the context."""
    for layer in layers:
        layer.forward = partial(_normalised, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _normalised(layer: _BatchNorm, batch: torch.Tensor) -> torch.Tensor:
    """Normalise a share (B, C, ...) of a batch by the statistics of the whole batch, and move the running ones."""
    weights = layer.weight if layer.weight is not None else None
    values = batch.to(batch.dtype if weights is None else weights.dtype)
    dims = [0, *range(2, batch.dim())]
    shape = [1, -1, *(1 for _ in dims[1:])]
    count = batch.numel() // batch.shape[1] * ranks.count()
    mean = ranks.summed(values.sum(dims)) / count
    centred = values - mean.view(shape)
    variance = ranks.summed(centred.square().sum(dims)) / count
    if layer.running_mean is not None and layer.running_var is not None:
        with torch.no_grad():
            assert layer.num_batches_tracked is not None
            layer.num_batches_tracked.add_(1)
            rate = layer.momentum if layer.momentum is not None else 1 / float(layer.num_batches_tracked)
            layer.running_mean.lerp_(mean.to(layer.running_mean), rate)
            layer.running_var.lerp_((variance * (count / (count - 1))).to(layer.running_var), rate)
    output = centred * (variance + layer.eps).rsqrt().view(shape)
    if weights is not None:
        output = output * weights.view(shape) + layer.bias.view(shape)
    return output.to(batch.dtype)
