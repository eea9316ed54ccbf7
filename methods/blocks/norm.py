"""Batch normalisation over groups of a batch, so that one device computes what several replicas would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

M = TypeVar("M", bound=nn.Module)


class GroupedBatchNorm(_BatchNorm):
    """Normalise every `group` consecutive images by their own statistics in training.

    In evaluation, and for batches of at most one group, it equals the plain layer. The running statistics follow the
    first group, as in DataParallel.

    Args:
        plain: the layer to replace; its parameters and buffers are shared, not copied.
        group: images that share batch statistics.
    """

    def __init__(self, plain: _BatchNorm, group: int) -> None:
        if plain.momentum is None:
            raise ValueError("normalisation groups need a momentum; this layer has None, a cumulative average")
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
        """Accept (B, C) as well as (B, C, H, W)."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C) or (B, C, H, W).

        Raises:
            ValueError: the batch is larger than a group and not a multiple of it.
        """
        if not self.training or len(batch) <= self.group:
            return super().forward(batch)
        if len(batch) % self.group:
            raise ValueError(f"a batch of {len(batch)} images cannot be split into groups of {self.group} (bn_group)")
        # A call per group costs 5 to 20 % on a CPU; one call on a (group, groups * C, ...) view is three times as slow.
        groups = torch.split(batch, self.group)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return torch.cat([self._normalise(images, follow=number == 0) for number, images in enumerate(groups)])

    def _normalise(self, images: torch.Tensor, *, follow: bool) -> torch.Tensor:
        mean, variance = (self.running_mean, self.running_var) if follow else (None, None)
        return F.batch_norm(images, mean, variance, self.weight, self.bias, True, self.rate, self.eps)


def group_batch_norm(module: M, group: int | None) -> M:
    """Replace every batch normalisation in a module by a `GroupedBatchNorm`.

    A batch of 64 on four replicas is four groups of 16 consecutive images: outputs, averaged gradients and
    running statistics then equal DataParallel's. State keys and parameters stay the same.

    Args:
        module: changed in place.
        group: images that share batch statistics; None leaves the module as it is.

    Returns:
        The module, or its replacement if it is a batch normalisation itself.
    """
    if group is None:
        return module
    if group < 1:
        raise ValueError(f"groups of {group} images (bn_group): give at least 1")
    if isinstance(module, _BatchNorm):
        return cast("M", GroupedBatchNorm(module, group))
    for name, child in module.named_children():
        setattr(module, name, group_batch_norm(child, group))
    return module


@contextmanager
def larger_groups(module: nn.Module, factor: int) -> Iterator[None]:
    """Enlarge the normalisation groups of a module for a batch that holds several parts of every image."""
    layers = [layer for layer in module.modules() if isinstance(layer, GroupedBatchNorm)]
    for layer in layers:
        layer.group *= factor
    try:
        yield
    finally:
        for layer in layers:
            layer.group //= factor


class DomainBatchNorm(nn.Module):
    """Normalise source images, the first half of a batch in training, and target images by layers of their own.

    Evaluation uses the target's layer (domain-specific batch normalisation, Chang et al., CVPR 2019, as in SpCL).

    Args:
        plain: the layer to replace; both layers start as it is.
    """

    def __init__(self, plain: _BatchNorm) -> None:
        super().__init__()
        self.num_features = plain.num_features
        self.source, self.target = deepcopy(plain), deepcopy(plain)
        self.train(plain.training)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C) or (B, C, H, W).

        Raises:
            ValueError: in training, the batch has no two halves.
        """
        if not self.training:
            return cast("torch.Tensor", self.target(batch))
        if len(batch) % 2:
            raise ValueError(f"a batch of {len(batch)} images has no halves: give as many source as target images")
        source, target = batch.chunk(2)
        return torch.cat([self.source(source), self.target(target)])


def split_batch_norm(module: M) -> M:
    """Replace every batch normalisation in a module by a `DomainBatchNorm`, after any grouping.

    Args:
        module: changed in place.

    Returns:
        The module, or its replacement if it is a batch normalisation itself.
    """
    if isinstance(module, _BatchNorm):
        return cast("M", DomainBatchNorm(module))
    for name, child in module.named_children():
        setattr(module, name, split_batch_norm(child))
    return module
