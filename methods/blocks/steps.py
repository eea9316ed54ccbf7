"""Steps of optimisers: one part of a network at a time, as adversarial training needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


def descend(loss: torch.Tensor, *optimizers: torch.optim.Optimizer) -> None:
    """Take one step of optimisers down a loss; no parameter outside of them gets a gradient."""
    parameters = [parameter for each in optimizers for group in each.param_groups for parameter in group["params"]]
    for optimizer in optimizers:
        optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=parameters)
    for optimizer in optimizers:
        optimizer.step()


def at_rates(*parts: tuple[float, Iterable[torch.Tensor]]) -> list[dict[str, Any]]:
    """Make an optimiser's groups of parameters, each of a learning rate of its own, for `set_rates`."""
    return [{"params": list(parameters), "lr": rate, "initial_lr": rate} for rate, parameters in parts]


def set_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set the learning rate of each group of each optimiser to a multiple of its initial one."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
