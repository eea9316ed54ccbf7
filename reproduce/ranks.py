"""Ranks: processes that compute one stage together, each on a device of its own.

Every rank runs the whole stage: it draws the same batches and augmentations, computes losses, memories and labels of
all images, and takes the same steps. Divided are only the files to decode, and the images that pass through a
backbone, by `methods.blocks.shares`. What enters and leaves a share goes through the functions here, so that every rank
has the pixels and outputs of all images and the gradients of all parameters.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""Time that a rank waits for the others: another run may build the stage first. Whoever started them ends them all."""


def count() -> int:
    """Return the number of ranks."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def own() -> int:
    """Return the number of this rank, from 0."""
    return distributed.get_rank() if count() > 1 else 0


@contextmanager
def joined(rank: int, ranks: int, meeting: Path | None, device: str) -> Iterator[None]:
    """Join the ranks of a stage, by NCCL on GPUs and gloo on the CPU; nothing happens if there is only one.

    Args:
        rank: number of this rank.
        ranks: number of ranks.
        meeting: a file that is absent at first, the same for all ranks, where they find each other.
        device: of this rank.
    """
    if ranks == 1:
        yield
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "nccl" if device.startswith("cuda") else "gloo"
    store = distributed.FileStore(str(meeting), ranks)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=PATIENCE)
    yield
    distributed.destroy_process_group()  # after an error the process ends, as the others may not get here


def share(batch: Tensor, parts: int = 1) -> Tensor:
    """Return this rank's share of a batch (B, ...): of each of its equal parts as many consecutive items as others."""
    return torch.unflatten(batch, 0, (parts, count(), -1))[:, own()].flatten(0, 1)


def all_have(it: bool, device: torch.device) -> bool:
    """Return whether something is true on all ranks."""
    if count() == 1:
        return it
    least = torch.tensor(int(it), device=device)
    distributed.all_reduce(least, distributed.ReduceOp.MIN)
    return bool(least)


def dealt(items: Sequence[T]) -> Sequence[T]:
    """Return the items of which this rank takes care, every n-th of n ranks."""
    return items[own() :: count()]


def collected(own_items: Tensor, total: int) -> Tensor:
    """Return all `total` items (N, ...), of which every rank has the `dealt` ones, in their order."""
    if count() == 1 or not total:
        return own_items
    sent = own_items.new_zeros(-(-total // count()), *own_items.shape[1:])
    sent[: len(own_items)] = own_items
    parts = [torch.empty_like(sent) for _ in range(count())]
    distributed.all_gather(parts, sent)
    return torch.stack(parts, 1).flatten(0, 1)[:total]


def gathered(item: Tensor, parts: int = 1) -> Tensor:
    """Return the batch of which every rank has computed its `share`; gradients flow to the own share."""
    return cast("Tensor", _Gathered.apply(item, parts))


def entering(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return tensors that all ranks have, for use on a share: their gradients are summed over the ranks."""
    return cast("tuple[Tensor, ...]", _Entering.apply(*tensors))


def summed(item: Tensor) -> Tensor:
    """Return the sum over the ranks of what each has computed from its share; its gradient is summed as well."""
    return cast("Tensor", _Summed.apply(item))


@torch.no_grad()
def follow_first(tensors: Iterable[Tensor]) -> None:
    """Replace floating-point tensors on this rank's device by those of rank 0, in place."""
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    sent = [each for each in tensors if each.is_floating_point() and each.numel() and each.device.type == device]
    for dtype in dict.fromkeys(each.dtype for each in sent):
        same = [each for each in sent if each.dtype == dtype]
        flat = torch.cat([each.flatten() for each in same])
        distributed.broadcast(flat, 0)
        if own():
            for each, new in zip(same, torch.split(flat, [each.numel() for each in same]), strict=True):
                each.data.copy_(new.view(each.shape))  # `data`: a backward pass to come does not use running statistics


def _sum(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Sum tensors over the ranks; None stays None, which it is on all ranks or none."""
    sums = list(tensors)
    given = [(at, each) for at, each in enumerate(tensors) if each is not None]
    for dtype in dict.fromkeys(each.dtype for _, each in given):
        same = [(at, each) for at, each in given if each.dtype == dtype]
        flat = torch.cat([each.flatten() for _, each in same])
        distributed.all_reduce(flat)
        for (at, each), new in zip(same, torch.split(flat, [each.numel() for _, each in same]), strict=True):
            sums[at] = new.view(each.shape)
    return sums


class _Entering(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(each.detach() for each in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        return tuple(_sum(gradients))


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, item: Tensor, parts: int) -> Tensor:
        ctx.parts = parts
        last = item.dim() == 4 and item.is_contiguous(memory_format=torch.channels_last)
        sent = (item.permute(0, 2, 3, 1) if last else item).contiguous()
        shares = [torch.empty_like(sent) for _ in range(count())]
        distributed.all_gather(shares, sent)
        whole = torch.stack([torch.unflatten(each, 0, (parts, -1)) for each in shares], 1).flatten(0, 2)
        return whole.permute(0, 3, 1, 2) if last else whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return share(gradient, ctx.parts), None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, item: Tensor) -> Tensor:
        total = item.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total
