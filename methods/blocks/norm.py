"""Batch normalisation over groups of a batch: one device then repeats what several replicas compute."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

M = TypeVar("M", bound=nn.Module)


class GroupedBatchNorm(_BatchNorm):
    """Batch normalisation that in training takes its statistics over every `group` consecutive images.

    In evaluation, and for a batch of one group or less, it is the plain layer. The running statistics follow the first
    group, as DataParallel keeps them.

    Args:
        plain: the layer to stand in for; its parameters and buffers are shared, not copied.
        group: images that are normalised together.
    """

    def __init__(self, plain: _BatchNorm, group: int) -> None:
        if plain.momentum is None:
            raise ValueError("normalisation groups need a momentum; this layer keeps a cumulative average (None)")
        super().__init__(
            plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats, device="meta"
        )
        for name, parameter in plain.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in plain.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.train(plain.training)
        self.rate = plain.momentum
        self.group = group

    def _check_input_dim(self, batch: torch.Tensor) -> None:
        """Take (B, C) as well as (B, C, H, W)."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C) or (B, C, H, W).

        Raises:
            ValueError: the batch is larger than a group and no multiple of it.
        """
        if not self.training or len(batch) <= self.group:
            return super().forward(batch)
        if len(batch) % self.group:
            raise ValueError(f"a batch of {len(batch)} images cannot be cut into groups of {self.group} (bn_group)")
        # One call a group costs 5 to 20 % on a CPU; one call on a (group, groups * C, ...) view is three times as slow.
        groups = torch.split(batch, self.group)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return torch.cat([self._normalise(images, follow=number == 0) for number, images in enumerate(groups)])

    def _normalise(self, images: torch.Tensor, *, follow: bool) -> torch.Tensor:
        mean, variance = (self.running_mean, self.running_var) if follow else (None, None)
        return F.batch_norm(images, mean, variance, self.weight, self.bias, True, self.rate, self.eps)


def group_batch_norm(module: M, group: int | None) -> M:
    """Make every batch normalisation inside a module a `GroupedBatchNorm`.

    A batch of 64 on four replicas is four groups of 16 consecutive images: outputs, averaged gradients and
    running statistics are then those of DataParallel. State keys and parameters stay the same.

    Args:
        module: changed in place.
        group: images that are normalised together; None leaves the module as it is.

    Returns:
        The module, or what takes its place if it is a batch normalisation itself.
    """
    if group is None:
        return module
    if group < 1:
        raise ValueError(f"groups of {group} images (bn_group)")
    if isinstance(module, _BatchNorm):
        return cast("M", GroupedBatchNorm(module, group))
    for name, child in module.named_children():
        setattr(module, name, group_batch_norm(child, group))
    return module
