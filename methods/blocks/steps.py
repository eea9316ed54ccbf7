"""Steps of optimisers: one part of a network at a time, as adversarial training needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping


def descend(loss: torch.Tensor, *optimizers: torch.optim.Optimizer) -> None:
    """Take one step of optimisers down a loss; no parameter outside of them gets a gradient."""
    parameters = [parameter for each in optimizers for group in each.param_groups for parameter in group["params"]]
    for optimizer in optimizers:
        optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=parameters)
    for optimizer in optimizers:
        optimizer.step()


def set_rates(optimizers: Mapping[str, torch.optim.Optimizer], factor: float) -> None:
    """Set the learning rate of each group of each optimiser to a multiple of its initial one."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
