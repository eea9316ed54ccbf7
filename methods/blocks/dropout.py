"""Dropout with masks drawn by address, like every other draw, so that a resumed run repeats them."""

from __future__ import annotations

import torch
from torch import nn

from reproduce.data.sampling import uniform


class Dropout(nn.Module):
    """Set each value to 0 with probability p and divide the others by 1 - p, in training; pass all in evaluation.

    Masks are drawn on the CPU from the address set by `address`, so a step's mask does not depend on earlier steps.
    Each pass of a step has its own mask.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout with probability {p}: give one of at least 0 and below 1")
        self.p = p
        self._place: tuple[int, tuple[str | int, ...]] | None = None
        self._passes = 0

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Drop values of any shape.

        Raises:
            RuntimeError: in training, before `address` was called.
        """
        if not self.training or self.p == 0:
            return values
        if self._place is None:
            raise RuntimeError("dropout has no address: call address(net, seed, epoch, step) before each step")
        seed, where = self._place
        kept = uniform(values.shape, seed, "dropout", *where, self._passes) >= self.p
        self._passes += 1
        return values * kept.to(values) / (1 - self.p)


def address(net: nn.Module, seed: int, *where: str | int) -> None:
    """Set the address of every `Dropout` in a network; call it before each step, with epoch and step."""
    for name, part in net.named_modules():
        if isinstance(part, Dropout):
            part._place, part._passes = (seed, (*where, name)), 0
